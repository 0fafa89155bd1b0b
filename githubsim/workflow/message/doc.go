// Package message is the language between the simulated GitHub and its runner
// program: what a broker, a run service and the registration endpoints say to a
// runner and what it says to them, with one job as the runner gets it.
//
// It owns shapes and constants only, with the JSON names that the real service
// uses where they are known. It never parses workflow files and imports the
// standard library only, because it is linked into the runner program, which
// has to start within milliseconds. The server imports it (mostly through the
// aliases in githubsim/workflow), and githubsim/runner does.
//
// The routes, in the order in which a runner uses them; {api} is the REST base
// ("http://host/api/v3"), {v2} the ServerUrlV2 of the JIT blob:
//
//	POST   {api}/actions/runner-registration   RemoteAuth <token>   RegistrationRequest → Registration
//	POST   {api}/actions/runners/register      RemoteAuth <token>   RegisterRequest → RegisterAnswer       (config.sh only)
//	DELETE {Registration.URL}/_apis/distributedtask/pools/0/agents/{id}   Bearer <Registration.Token>      (config.sh remove)
//	POST   <authorizationUrl>                  form, RS256 assertion → TokenAnswer | 400 OAuthError
//	POST   {v2}session                         Bearer <access>      Session → Session | 409 | 403
//	GET    {v2}message?sessionId=&status=      Bearer <access>      200 Broker | 202
//	POST   {run_service_url}/acquirejob        Bearer <access>      AcquireRequest → Message | 404 409 422 ServiceError
//	POST   {run_service_url}/renewjob          Bearer <Message.Token>  RenewRequest → RenewAnswer | 404
//	POST   {run_service_url}/steps             Bearer <Message.Token>  StepsRequest → 200
//	POST   {run_service_url}/log               Bearer <Message.Token>  LogRequest → 200
//	POST   {run_service_url}/completejob       Bearer <Message.Token>  CompleteRequest → 200
//	GET    <Message.Checkout.URL>              Bearer <Message.Token>  200 tar.gz of the repository, no leading folder
//	DELETE {v2}session?sessionId=              Bearer <access>      200 | 204
//
// Where Message.Token is empty, the runner's access token is used for all of them.
package message
