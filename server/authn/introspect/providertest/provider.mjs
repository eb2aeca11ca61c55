// An OpenID provider for tests: npm's oidc-provider, with clients, resources and keys
// that the test knows. It prints its issuer when it listens, and ends with its stdin.
//
//   node provider.mjs DIRECTORY_WITH_NODE_MODULES JSON_WITH_CLIENT_KEY
//
// Besides what a provider has: POST /test/rotate makes it sign with a new key and keep
// publishing the old one, POST /test/retire publishes the newest key only, and POST
// /test/clock?seconds=N sets its clock ahead by so much.
import { createRequire } from 'node:module';
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [directory, clientKey] = process.argv.slice(2);
const require = createRequire(join(directory, 'here.js'));
const { Provider } = await import(pathToFileURL(require.resolve('oidc-provider')));

let ahead = 0;
const now = Date.now;
Date.now = () => now() + ahead * 1000;

const keys = [];
const mint = () => {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  keys.unshift({ ...privateKey.export({ format: 'jwk' }), kid: `k${keys.length + 1}`, use: 'sig', alg: 'ES256' });
};

const client = (id, rest) => ({
  client_id: id, redirect_uris: [], response_types: [], grant_types: ['client_credentials'], id_token_signed_response_alg: 'ES256', ...rest,
});

const configuration = () => ({
  jwks: { keys },
  clients: [
    client('svc', { client_secret: 'secret-of-svc' }),
    client('brief', { client_secret: 'secret-of-brief' }),
    client('post', { client_secret: 'p%:+/= &', token_endpoint_auth_method: 'client_secret_post' }),
    client('basic', { client_secret: 'p%:+/= &' }),
    client('key', { token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: JSON.parse(clientKey).alg, jwks: { keys: [JSON.parse(clientKey)] } }),
    client('web', { client_secret: 'secret-of-web', redirect_uris: ['https://web.test/callback'], response_types: ['code'], grant_types: ['authorization_code', 'refresh_token'] }),
  ],
  scopes: ['openid', 'offline_access', 'orders.read'],
  pkce: { required: () => false },
  cookies: { keys: ['key-of-a-test'] },
  findAccount: (ctx, id) => ({ accountId: id, claims: async () => ({ sub: id }) }),
  ttl: { ClientCredentials: (ctx, token, c) => (c.clientId === 'brief' ? 60 : 600), AccessToken: 600, IdToken: 600, RefreshToken: 3600, Grant: 3600, Session: 3600, Interaction: 600 },
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true, allowedPolicy: () => true },
    resourceIndicators: {
      enabled: true,
      defaultResource: (ctx, c, one) => one || 'https://orders.test/opaque',
      useGrantedResource: () => true,
      getResourceServerInfo: (ctx, resource) => ({
        scope: 'orders.read', audience: 'orders', accessTokenTTL: 600,
        ...(resource.endsWith('/jwt') ? { accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } } : { accessTokenFormat: 'opaque' }),
      }),
    },
  },
});

let handle;
const server = createServer((request, response) => {
  const url = new URL(request.url, 'http://127.0.0.1');
  if (!url.pathname.startsWith('/test/')) return handle(request, response);
  if (url.pathname === '/test/rotate') mint();
  if (url.pathname === '/test/retire') keys.length = 1;
  if (url.pathname === '/test/clock') ahead = Number(url.searchParams.get('seconds'));
  else serve();
  return response.end();
});
const serve = () => { handle = new Provider(`http://127.0.0.1:${server.address().port}`, configuration()).callback(); };

mint();
server.listen(0, '127.0.0.1', () => {
  serve();
  console.log(`http://127.0.0.1:${server.address().port}`);
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
