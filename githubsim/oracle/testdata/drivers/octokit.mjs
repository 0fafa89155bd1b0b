// Drives the simulator with octokit as any App would, and prints what it saw as
// one JSON object per line. Every "step" line waits for a line on standard input.
import { createInterface } from "node:readline/promises";
import { App, Octokit } from "octokit";

const { API, APP_ID, PEM, INSTALLATION, ORG } = process.env;
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (step, facts) => console.log(JSON.stringify({ step, ...facts, ms: Math.round(performance.now()) }));
const go = () => lines.next();

let secondary = 0;
const app = new App({
  appId: Number(APP_ID), // octokit then sends a number as issuer
  privateKey: PEM,
  webhooks: { secret: "unused" },
  Octokit: Octokit.defaults({
    baseUrl: API,
    throttle: {
      onRateLimit: () => false,
      onSecondaryRateLimit: (after, options, octokit, retries) => { secondary++; return retries < 3; },
    },
  }),
});

const { data: me } = await app.octokit.request("GET /app");
let installations = 0;
for await (const { installation } of app.eachInstallation.iterator()) {
  installations++;
  if (installation.account.login !== ORG) throw new Error("foreign installation " + installation.account.login);
}
say("app", { slug: me.slug, installations });

const octokit = await app.getInstallationOctokit(Number(INSTALLATION));
const jit = (name, request = {}) => octokit.rest.actions.generateRunnerJitconfigForOrg({ org: ORG, name, runner_group_id: 1, labels: ["self-hosted", "linux"], request });
for (let i = 0; i < 7; i++) {
  const { status, data } = await jit(`octo-${i}`);
  if (status !== 201 || !data.encoded_jit_config) throw new Error("no JIT configuration");
}
const runners = await octokit.paginate(octokit.rest.actions.listSelfHostedRunnersForOrg, { org: ORG, per_page: 3 });
say("runners", { count: runners.length, status: [...new Set(runners.map((r) => r.status))], os: [...new Set(runners.map((r) => r.os))] });

// By itself octokit sends a POST that got 409 three times more.
const conflict = await jit("octo-1", { retries: 0 }).catch((e) => e);
const missing = await octokit.rest.actions.deleteSelfHostedRunnerFromOrg({ org: ORG, runner_id: 1 << 30 }).catch((e) => e);
say("errors", { conflict: conflict.status, missing: missing.status, message: conflict.message });

let repositories = 0;
for await (const { repository } of app.eachRepository.iterator({ installationId: Number(INSTALLATION) })) repositories += repository.full_name ? 1 : 0;
say("repositories", { repositories });

say("limited", {});
await go(); // the simulator now refuses with its secondary limit, for a while
const { data: late } = await octokit.rest.actions.listSelfHostedRunnersForOrg({ org: ORG });
say("after limit", { secondary, count: late.total_count });

await go(); // the simulator's clock now runs behind
const skewed = new App({ appId: APP_ID, privateKey: PEM, webhooks: { secret: "unused" }, Octokit: Octokit.defaults({ baseUrl: API, throttle: { enabled: false } }) });
const { data: still } = await skewed.octokit.request("GET /app");
say("after skew", { slug: still.slug });
process.exit(0);
