package guest

// Variables by which Init tells the program that it becomes what it is to do.
const (
	// Mark is set in a guest, to KeptMark for a kept one.
	Mark = "MUSTER_GUEST"
	// KeptMark says that the runner of the machine's disk is to be run.
	KeptMark = "kept"
	// ListenVariable and ProxyVariable carry Boot.Listen, separated by commas, and Boot.Proxy.
	ListenVariable = "MUSTER_EGRESS_LISTEN"
	ProxyVariable  = "MUSTER_EGRESS_PROXY"
	// URLScheme comes before the name of a port in MUSTER_URL.
	URLScheme = "virtio:"
)

// TemplateWord on the kernel's line marks a machine that is made to be copied.
const TemplateWord = "muster.template"

// RunnerDir is where an image has the runner.
const RunnerDir = "/opt/actions-runner"

// ModulesDir is where an image's first file system has the modules of its kernel, and
// order, which names them in the order in which they are to be loaded.
const ModulesDir = "/muster/modules"
