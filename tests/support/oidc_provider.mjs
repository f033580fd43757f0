// A certified OAuth and OIDC server (oidc-provider) on loopback, with a second port on which a test controls it.
// Usage: node oidc_provider.mjs NODE_MODULES KNOBS_JSON; prints {issuer, control} as one line.
//
// Knobs (all optional; POST /knobs changes those with * while it runs):
//   access_token_ttl_s*, rotate*, issue_refresh_token* ("offline_access" | "always" | "never"), token_delay_ms*,
//   scopes, resources* (accepted resource indicators; null: any on loopback), dynamic_registration,
//   clients (static ones, RFC 7591 metadata), documents* (URL → client ID metadata document).
// Control: GET /state; POST /knobs, /clock {shift_s}, /revoke, /forget-clients, /rotate-keys, /reset, /mint {claims, ttl_s}.
import { generateKeyPairSync, randomUUID } from "node:crypto";
import http from "node:http";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [modules, given] = process.argv.slice(2);
const load = (...parts) => import(pathToFileURL(path.join(modules, ...parts)).href);
console.info = console.warn = () => {};  // what oidc-provider says of settings that are for development only

const knobs = {
  access_token_ttl_s: 3600,
  rotate: true,
  issue_refresh_token: "offline_access",
  token_delay_ms: 0,
  scopes: ["mcp", "mcp:admin"],
  resources: null,
  dynamic_registration: true,
  clients: [],
  documents: {},
  ...JSON.parse(given || "{}"),
};

const realNow = Date.now.bind(Date);
let shiftMs = 0;
Date.now = () => realNow() + shiftMs;  // oidc-provider takes every time from here

const { default: Provider } = await load("oidc-provider", "lib", "index.js");
const { createMemoryAdapter } = await load("oidc-provider", "lib", "adapters", "memory_adapter.js");
const { SignJWT, importJWK } = await load("jose", "dist", "webapi", "index.js");

// The adapter outlives the provider, which is made anew when its keys are rotated.
const makeAdapter = createMemoryAdapter(0);
const ids = new Map();  // model → IDs, to revoke and to forget
const adapter = (model) => {
  const inner = makeAdapter(model);
  const upsert = inner.upsert.bind(inner);
  inner.upsert = (id, ...rest) => {
    if (!ids.has(model)) ids.set(model, new Set());
    ids.get(model).add(id);
    return upsert(id, ...rest);
  };
  return inner;
};
const destroyAll = async (...models) => {
  for (const model of models) {
    for (const id of ids.get(model) ?? []) await adapter(model).destroy(id);
    ids.delete(model);
  }
};

const makeKeys = () => {
  const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ format: "jwk" });
  return [{ ...rsa, kid: `rsa-${randomUUID()}`, use: "sig", alg: "RS256" }];
};

let counters = {};
let tokenRequests = 0;
let maxTokenRequests = 0;
const count = (name) => { counters[name] = (counters[name] ?? 0) + 1; };
const onLoopback = (url) => ["127.0.0.1", "localhost", "[::1]"].includes(new URL(url).hostname);
const known = (resource) => (knobs.resources ? knobs.resources.includes(resource) : onLoopback(resource));

let keys = makeKeys();
let callback;
let issuer;
const build = () => {
  const provider = new Provider(issuer, {
    adapter,
    jwks: { keys },
    clients: knobs.clients,
    scopes: ["openid", "offline_access", ...knobs.scopes],
    cookies: { keys: ["test"] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    clientAuthMethods: ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"],
    clientDefaults: { application_type: "native" },
    pkce: { required: () => true },
    enabledJWA: { clientAuthSigningAlgValues: ["RS256", "ES256", "EdDSA"] },
    ttl: { AccessToken: () => knobs.access_token_ttl_s, ClientCredentials: () => knobs.access_token_ttl_s },
    issueRefreshToken: (_, client, code) =>
      client.grantTypeAllowed("refresh_token") &&
      (knobs.issue_refresh_token === "always" ||
        (knobs.issue_refresh_token === "offline_access" && code.scopes.has("offline_access"))),
    rotateRefreshToken: () => knobs.rotate,
    expiresWithSession: () => false,
    fetch: async (url) => {
      const document = knobs.documents[String(url)];
      count("document");
      return document
        ? Response.json(document)
        : new Response("not found", { status: 404 });
    },
    features: {
      devInteractions: { enabled: true },
      registration: { enabled: knobs.dynamic_registration, initialAccessToken: false },
      revocation: { enabled: true },
      clientCredentials: { enabled: true },
      clientIdMetadataDocument: {
        enabled: Object.keys(knobs.documents).length > 0,
        ack: "draft-02",
        cacheDuration: { min: 0, max: 0 },
      },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        defaultResource: () => undefined,
        getResourceServerInfo: (_, resource) => {
          if (!known(resource)) throw new errors.InvalidTarget();
          return {
            scope: knobs.scopes.join(" "),
            audience: resource,
            accessTokenTTL: knobs.access_token_ttl_s,
            accessTokenFormat: "jwt",
            jwt: { sign: { alg: "RS256" } },
          };
        },
      },
    },
  });
  provider.on("server_error", (_, error) => console.error("server_error", error));
  callback = provider.callback();
};
const { errors } = await load("oidc-provider", "lib", "index.js");

const body = async (request) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString();
};

const server = http.createServer(async (request, response) => {
  const { pathname } = new URL(request.url, issuer);
  if (request.method !== "POST" || pathname !== "/token") {
    count(`${request.method} ${pathname.replace(/^\/(auth|interaction|reg)\/[^/]+/, "/$1/ID")}`);
    return callback(request, response);
  }
  // The body is read here to count by kind of grant; oidc-provider takes a body that was parsed before it.
  request.body = Object.fromEntries(new URLSearchParams(await body(request)));
  count(`token ${request.body.grant_type}`);
  maxTokenRequests = Math.max(maxTokenRequests, (tokenRequests += 1));
  response.on("close", () => {
    tokenRequests -= 1;
    count(`token ${request.body.grant_type} ${response.statusCode}`);
  });
  setTimeout(() => callback(request, response), knobs.token_delay_ms);
});

const control = {
  "/state": () => ({ counters, max_token_requests: maxTokenRequests, shift_s: shiftMs / 1000 }),
  "/knobs": (changes) => Object.assign(knobs, changes),
  "/clock": ({ shift_s }) => { shiftMs = shift_s * 1000; },
  "/revoke": () => destroyAll("Grant", "RefreshToken", "AccessToken"),
  "/forget-clients": () => destroyAll("Client"),
  "/rotate-keys": () => { keys = makeKeys(); build(); },
  "/reset": () => { counters = {}; maxTokenRequests = 0; },
  "/mint": async ({ claims, ttl_s = 600 }) => {
    const now = Math.floor(Date.now() / 1000);
    const token = new SignJWT({ iss: issuer, jti: randomUUID(), iat: now, exp: now + ttl_s, ...claims });
    token.setProtectedHeader({ alg: "RS256", typ: "at+jwt", kid: keys[0].kid });
    return { token: await token.sign(await importJWK(keys[0], "RS256")) };
  },
};
const controlServer = http.createServer(async (request, response) => {
  try {
    const said = await body(request);
    const answer = await control[request.url](said ? JSON.parse(said) : {});
    response.end(JSON.stringify(answer ?? {}));
  } catch (error) {
    response.writeHead(500).end(String(error?.stack));
  }
});

const listen = (each) => new Promise((resolve) => each.listen(0, "127.0.0.1", () => resolve(each.address().port)));
issuer = `http://127.0.0.1:${await listen(server)}`;
build();
const port = await listen(controlServer);
console.log(JSON.stringify({ issuer, control: `http://127.0.0.1:${port}` }));
