#!/usr/bin/env bash
# Proves against Stripe's own library that signatures mean the same here: the
# npm package stripe signs bodies which `webhookd dev` must take or refuse, and
# must itself accept what `webhookd trigger` signs. Needs node, npm and go.
#
#   scripts/verify-with-stripe-node.sh             prints a table, exit 1 if a row is wrong
#   scripts/verify-with-stripe-node.sh --update    and renews the vectors of internal/signature's tests
#
# STRIPE_NODE_VERSION chooses the version of the package (default: that of the vectors; "latest" is another).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
golden=
case "$*" in
'') ;;
--update) golden=$root/internal/signature/testdata/stripe-node.json ;;
*)
	sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
	exit 2
	;;
esac
for program in node npm go; do
	command -v "$program" >/dev/null || {
		echo "verify-with-stripe-node: $program is needed" >&2
		exit 1
	}
done
"$root/scripts/ensure-postgres.sh"

work=$(mktemp -d)
chmod 711 "$work" # PostgreSQL's user passes through, where we are root
dev=
finish() {
	if [[ -n $dev ]]; then
		kill -INT "$dev" 2>/dev/null || true
		wait "$dev" || true
	fi
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

npm install --prefix "$work" --no-save --no-fund --no-audit --loglevel=error "stripe@${STRIPE_NODE_VERSION:-23.1.0}" >/dev/null
(cd "$root" && go build -o "$work/webhookd" ./cmd/webhookd)

cd "$work"
# A child of a script ignores SIGINT unless job control is on.
set -m
env -u WEBHOOKD_STRIPE_WEBHOOK_SECRETS -u WEBHOOKD_STRIPE_WEBHOOK_SECRETS_FILE \
	WEBHOOKD_LISTEN_ADDR=127.0.0.1:0 WEBHOOKD_ADMIN_ADDR=127.0.0.1:0 ./webhookd dev >dev.out 2>dev.log &
dev=$!
set +m
for ((i = 0; i < 300; i++)); do
	if grep -q 'webhookd is ready' dev.out; then break; fi
	if ! kill -0 "$dev" 2>/dev/null; then break; fi
	sleep 0.1
done
if ! grep -q 'webhookd is ready' dev.out; then
	cat dev.out dev.log >&2
	exit 1
fi

cat >verify.cjs <<'NODE'
const fs = require('node:fs');
const path = require('node:path');
const {execFileSync} = require('node:child_process');
const module_ = require('stripe');
const stripe = new (module_.default ?? module_)('sk_test_unused');
const version = JSON.parse(fs.readFileSync('node_modules/stripe/package.json')).version;
const [fixtures, golden] = process.argv.slice(2);
const dev = JSON.parse(fs.readFileSync('.webhookd/dev.json'));

const read = (file) => fs.readFileSync(path.join(fixtures, file), 'utf8');
const list = (folder) => fs.readdirSync(path.join(fixtures, folder)).filter((f) => f.endsWith('.json')).map((f) => `${folder}/${f}`);
const header = (payload, options) => stripe.webhooks.generateTestHeaderString({payload, ...options});

// wrap makes an event of a session that Stripe publishes.
let n = 0;
const wrap = (session) => {
  const word = session.redaction?.status === 'redacted' ? 'redacted'
    : session.status === 'requires_input' && !session.last_error ? 'created' : session.status;
  n++;
  return {
    id: `evt_node${n}`, object: 'event', api_version: stripe.getApiField('version'), created: 1700000000 + n,
    data: {object: {...session, id: `vs_node${n}`}}, livemode: session.livemode, pending_webhooks: 1,
    request: {id: null, idempotency_key: null}, type: `identity.verification_session.${word}`,
  };
};
const sessions = list('stripe').filter((f) => f.includes('session')).map((f) => [f, wrap(JSON.parse(read(f)))]);
const base = () => wrap(JSON.parse(read('stripe/docs.session.requires_input_failed.json')));
const withMetadata = (metadata) => {
  const e = base();
  e.data.object.metadata = metadata;
  return e;
};
const big = Object.fromEntries(Array.from({length: 50}, (_, i) => [`key${i}`, 'x'.repeat(500)]));
const crafted = [
  ['crafted: compact', JSON.stringify(base())],
  ['crafted: indented', JSON.stringify(base(), null, 2)],
  ['crafted: a line break at the end', JSON.stringify(base()) + '\n'],
  ['crafted: CRLF between', JSON.stringify(base(), null, 1).replaceAll('\n', '\r\n')],
  ['crafted: names in UTF-8', JSON.stringify(withMetadata({имя: 'Zoë 张伟 🦭', '\u2028': '\u2029'}))],
  ['crafted: escapes', JSON.stringify(withMetadata({a: 'NUL', b: '"\\/'})).replace('NUL', '\\u0000\\ud800')],
  ['crafted: 25 KB of metadata', JSON.stringify(withMetadata(big))],
];

const now = Math.floor(Date.now() / 1000);
const rows = []; // name, body, header, the code that must come or '' for 200
for (const [name, e] of sessions) rows.push([`${name} as ${e.type.split('.').pop()}`, JSON.stringify(e, null, 2)]);
for (const file of ['stripe/event.json', ...list('crafted')]) rows.push([file, read(file)]);
rows.push(...crafted);
for (const row of rows) row.push(header(row[1], {secret: dev.secret}), '');
const body = JSON.stringify(base());
const other = header(body, {secret: 'whsec_another', timestamp: now});
const good = header(body, {secret: dev.secret, timestamp: now});
rows.push(
  ['rolled: the other secret first', body, `${other},${good.split(',')[1]}`, ''],
  ['rolled: the other secret last', body, `${good},${other.split(',')[1]}`, ''],
  ['with a v0 signature beside', body, `${good},v0=${'0'.repeat(64)}`, ''],
  ['4 minutes ago', body, header(body, {secret: dev.secret, timestamp: now - 240}), ''],
  ['6 minutes ago', body, header(body, {secret: dev.secret, timestamp: now - 360}), 'too_old'],
  ['6 minutes ahead', body, header(body, {secret: dev.secret, timestamp: now + 360}), 'too_new'],
  ['by another secret', body, other, 'no_match'],
  ['changed after signing', body + ' ', good, 'no_match'],
  ['by scheme v0 alone', body, header(body, {secret: dev.secret, scheme: 'v0'}), 'no_v1_signature'],
  ['without a header', body, '', 'missing_header'],
);

(async () => {
  console.log(`stripe ${version}, node ${process.version}`);
  let wrong = 0;
  for (const [name, text, h, want] of rows) {
    const answer = await fetch(dev.url, {method: 'POST', body: Buffer.from(text), headers: h ? {'Stripe-Signature': h} : {}});
    const said = await answer.json();
    const ok = want ? answer.status === 400 && said.code === want : answer.status === 200;
    wrong += !ok;
    console.log(`${ok ? 'ok   ' : 'WRONG'}  ${answer.status}  ${(said.outcome ?? said.code).padEnd(15)}  ${String(Buffer.byteLength(text)).padStart(6)} bytes  ${name}`);
  }

  const printed = execFileSync('./webhookd', ['trigger', 'story', 'redacted', '--print', '--json'], {encoding: 'utf8'}).trim().split('\n');
  for (const line of printed) {
    const {body, header} = JSON.parse(line);
    let said = 'accepted', ok = true;
    try {
      stripe.webhooks.constructEvent(body, header, dev.secret);
    } catch (e) {
      [said, ok] = [e.message.split('\n')[0], false];
    }
    wrong += !ok;
    console.log(`${ok ? 'ok   ' : 'WRONG'}  by stripe: ${said}  ${JSON.parse(body).type}, signed by webhookd trigger`);
  }

  if (golden) {
    const timestamp = 1700000000, secret = 'whsec_test_secret', rolled = 'whsec_test_secret_rolled_key';
    const vectors = [...sessions.map(([name, e]) => [name, JSON.stringify(e, null, 2)]), ...crafted.slice(0, -1), ['an empty body', ''], ['an empty object', '{}']]
      .map(([name, text]) => ({name, body: text, secret, timestamp, header: header(text, {secret, timestamp}), want: 'accepted'}));
    const text = vectors[0].body;
    vectors.push(
      {name: 'without whsec_', body: text, secret: 'not a prefix', timestamp, header: header(text, {secret: 'not a prefix', timestamp}), want: 'accepted'},
      {name: 'by another secret', body: text, secret, timestamp, header: header(text, {secret: rolled, timestamp}), want: 'no_match'},
      {name: 'by scheme v0 alone', body: text, secret, timestamp, header: header(text, {secret, timestamp, scheme: 'v0'}), want: 'no_v1_signature'},
    );
    fs.writeFileSync(golden, JSON.stringify({
      about: 'Headers made by stripe.webhooks.generateTestHeaderString of the npm package; renewed by scripts/verify-with-stripe-node.sh --update.',
      package: 'stripe', version, vectors,
    }, null, 1) + '\n');
    console.log(`${vectors.length} vectors written`);
  }
  console.log(wrong ? `${wrong} rows are wrong` : `all ${rows.length + printed.length} as they must be`);
  process.exit(wrong ? 1 : 0);
})();
NODE
node verify.cjs "$root/internal/events/testdata/fixtures" "$golden"
