// Verifies deliveries, one JSON object {event, id, signature, body} per line of
// standard input, with GitHub's own packages; prints one line of JSON for each.
import { createInterface } from "node:readline";
import { verify } from "@octokit/webhooks-methods";
import { Webhooks } from "@octokit/webhooks";

const { SECRET } = process.env;
const webhooks = new Webhooks({ secret: SECRET });
const actions = [];
webhooks.onAny(({ name, payload }) => { actions.push(name + (payload.action ? "." + payload.action : "")); });
for await (const line of createInterface({ input: process.stdin })) {
  const { event, id, signature, body } = JSON.parse(line);
  const verified = await verify(SECRET, body, signature);
  const forged = await verify(SECRET, body + " ", signature);
  await webhooks.verifyAndReceive({ id, name: event, signature, payload: body });
  console.log(JSON.stringify({ event, verified, forged, action: actions.at(-1) }));
}
