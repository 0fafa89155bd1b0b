// An App on probot: says what it hears, and asks the API about it with the
// credentials of the installation that the delivery names.
import { run } from "probot";

await run((app) => {
  app.on(["workflow_job.queued", "workflow_job.completed"], async (context) => {
    const { workflow_job: job, repository } = context.payload;
    const { data } = await context.octokit.rest.actions.getJobForWorkflowRun({ owner: repository.owner.login, repo: repository.name, job_id: job.id });
    console.log("HEARD " + JSON.stringify({ action: context.payload.action, id: job.id, status: data.status, labels: data.labels }));
  });
});
