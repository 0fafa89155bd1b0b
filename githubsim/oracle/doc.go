// Package oracle judges the simulator by what others say about GitHub: GitHub's
// own OpenAPI documents and unmodified third-party programs.
//
// It holds tests only. They start githubsim, use it in full, and check every REST
// answer against @octokit/openapi (enterprise routes against its ghec.json),
// every webhook against @octokit/openapi-webhooks, and that octokit,
// @octokit/webhooks and probot work with it as they do with GitHub. The npm
// packages are pinned in testdata/npm and installed by install.sh outside the
// tree; the tests find them through MUSTER_NPM or in install.sh's default place,
// skip without them, and fail instead where CI=true. Nothing imports this package.
package oracle
