package slurm

// JobName is the name of a runner's job, for tests that look at Slurm themselves.
var JobName = jobName
