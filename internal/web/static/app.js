// Liveness and keys for pages that work without them. Nothing here knows what a
// page shows: a region with an id and data-live="kind kind:id" is fetched anew
// when one of its kinds changes.
'use strict';

const $ = (sel, from = document) => from.querySelector(sel);
const $$ = (sel, from = document) => [...from.querySelectorAll(sel)];
const root = document.documentElement;

// Ticking times, by the server's clock: this machine's may be wrong.

const skew = Date.parse(root.dataset.now) - Date.now();
const two = (n) => String(n).padStart(2, '0');

function duration(s) { // formatDuration of format.go, from one second up
  s = Math.max(0, Math.floor(s));
  const m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
  if (s < 60) return `${s}s`;
  if (m < 60) return `${m}m ${two(s % 60)}s`;
  if (h < 24) return `${h}h ${two(m % 60)}m`;
  return `${d}d ${h % 24}h`;
}

function coarse(s) { // formatCoarse of format.go
  s = Math.max(0, Math.floor(s));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m`;
  if (s < 172800) return `${Math.floor(s / 3600)}h`;
  return `${Math.floor(s / 86400)}d`;
}

function tick() {
  for (const t of $$('time[data-tick]')) {
    const passed = (Date.now() + skew - Date.parse(t.dateTime)) / 1000;
    const text = t.dataset.tick === 'ago' ? `${coarse(passed)} ago` : duration(passed);
    if (t.textContent !== text) t.textContent = text;
  }
}

// Live regions.

const served = new Map(); // id → the HTML that the server last sent, before ticks changed it
const known = new Map(); // id of a row → what about it is worth a glance when it changes
const note = (el) => { served.set(el.id, el.outerHTML); for (const row of $$('[data-row]', el)) known.set(row.id, row.dataset.row); };
const concerns = (region, changes) => region.dataset.live.split(' ').some((want) => {
  const [kind, id] = want.split(':');
  return changes.some((c) => c.kind === '*' || (c.kind === kind && (!id || !c.id || c.id === id || c.id.startsWith(id + '/') || c.id.startsWith(id + '.'))));
});

// occupied: the operator types in the region, or has selected text in it.
function occupied(region) {
  const sel = getSelection();
  return region.contains(document.activeElement) && document.activeElement.matches('input, select, textarea')
    || (sel && !sel.isCollapsed && region.contains(sel.anchorNode));
}

// swap puts the fresh region in the place of the old one and keeps what the
// operator did there: focus, open details, scroll positions.
function swap(old, fresh) {
  const focus = old.contains(document.activeElement) ? document.activeElement : null;
  const same = (el) => (a) => a.tagName === el.tagName && a.textContent === el.textContent && a.getAttribute('href') === el.getAttribute('href');
  const open = $$('details:not([data-load])', old).map((d) => d.open);
  for (const d of $$('details[data-load]', old)) d.open ? unfolded.add(d.id) : unfolded.delete(d.id);
  const scrolled = $$('pre', old).map((p) => (p.scrollTop + p.clientHeight >= p.scrollHeight - 4 ? Infinity : p.scrollTop));
  const changed = $$('[data-row]', fresh).filter((row) => known.get(row.id) !== row.dataset.row);
  note(fresh);
  old.replaceWith(fresh);
  $$('details:not([data-load])', fresh).forEach((d, i) => { d.open = open[i] ?? d.open; });
  unfold(fresh);
  begin(fresh);
  $$('pre', fresh).forEach((p, i) => { p.scrollTop = Math.min(scrolled[i] ?? Infinity, p.scrollHeight); });
  for (const row of changed) row.classList.add('fresh');
  if (focus) ($$('a, button, summary, pre', fresh).find(same(focus)) ?? (fresh.hasAttribute('tabindex') ? fresh : null))?.focus({ preventScroll: true });
}

let shown = location.href.split('#')[0]; // the address of what is on the page
let stale = new Set(), busy = false, timer = 0;

async function refresh() {
  if (busy || !stale.size || document.hidden) return;
  busy = true;
  const wanted = stale;
  stale = new Set();
  const began = performance.now(), at = location.href;
  try {
    const answer = await fetch(at, { headers: { 'Muster-Fragment': '1' } });
    if (answer.status === 401) return location.reload(); // signed out: to the sign-in
    const text = answer.ok && await answer.text();
    if (location.href !== at) wanted.forEach((id) => stale.add(id)); // it answers for what was left meanwhile
    else if (answer.ok) {
      const page = new DOMParser().parseFromString(text, 'text/html');
      for (const id of wanted) {
        const old = document.getElementById(id), fresh = page.getElementById(id);
        if (!old || !fresh || served.get(id) === fresh.outerHTML) continue;
        if (occupied(old)) stale.add(id); else swap(old, document.adoptNode(fresh));
      }
      tick();
    }
  } catch { wanted.forEach((id) => stale.add(id)); }
  busy = false;
  // A slow server is asked less often.
  if (stale.size) later(Math.max(1000, 3 * (performance.now() - began)));
}

function later(ms) { clearTimeout(timer); timer = setTimeout(refresh, ms); }

function changed(changes) {
  for (const region of $$('[data-live][id]')) if (concerns(region, changes)) stale.add(region.id);
  if (stale.size && !busy) later(30);
}

let source = null, retry = 0;

function connect() {
  const url = document.body.dataset.events;
  if (!url || source || document.hidden) return;
  clearTimeout(retry);
  source = new EventSource(url);
  source.onopen = () => { live('on', 'Live'); changed([{ kind: '*' }]); }; // what was missed meanwhile
  source.onmessage = (e) => changed(JSON.parse(e.data));
  source.onerror = () => {
    live('off', 'Reconnecting…');
    if (source?.readyState === EventSource.CLOSED) { disconnect(); retry = setTimeout(connect, 5000); }
  };
}

// A hidden page lets go of its stream: browsers allow only six to one host.
function disconnect() { source?.close(); source = null; }

function live(state, text) {
  const el = $('#live');
  if (!el) return;
  el.hidden = false;
  el.dataset.state = state;
  el.textContent = text;
}

// Parts of a page that are fetched when they are wanted. Each is a link to a page that has
// them, so that all of it is there without this script; what the server sends is markup
// of its own templates, and is put in as such.

const unfolded = new Set(); // ids of details that were fetched and are open

async function part(url) {
  const answer = await fetch(url, { headers: { 'Muster-Fragment': 'part' } });
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new Error(answer.status);
  return new DOMParser().parseFromString(await answer.text(), 'text/html');
}

async function load(details) {
  const kids = $('.kids', details);
  if (details.dataset.loaded || !kids) return;
  details.dataset.loaded = '1';
  kids.setAttribute('aria-busy', 'true');
  try {
    const page = await part(details.dataset.load);
    kids.replaceChildren(...page.body.children);
    unfold(kids);
  } catch { delete details.dataset.loaded; } // the link in it still works
  kids.removeAttribute('aria-busy');
}

function unfold(from) {
  for (const d of $$('details[data-load]', from)) if (unfolded.has(d.id)) d.open = true;
}

async function more(link) {
  const item = link.closest('li');
  if (item.hasAttribute('aria-busy')) return;
  item.setAttribute('aria-busy', 'true');
  try {
    const page = await part(link.href);
    const fresh = [...page.querySelector('ul').children];
    item.replaceWith(...fresh);
    fresh[0]?.querySelector('summary, a')?.focus({ preventScroll: true });
  } catch { location.href = link.href; }
}

let followed = 0; // how many links were: of two that overlap the later one wins
const awaited = new Set(); // the regions that they change

// follow shows a link's page by putting in only the regions that it changes.
async function follow(link) {
  const nth = ++followed;
  const url = new URL(link.href.baseVal ?? link.href, location.href), ids = link.dataset.swap.split(' ');
  for (const id of ids) { awaited.add(id); document.getElementById(id)?.setAttribute('aria-busy', 'true'); }
  let text;
  try {
    const answer = await fetch(url, { headers: { 'Muster-Fragment': '1' } });
    if (answer.ok) text = await answer.text();
  } catch { /* below */ }
  if (nth !== followed) return;
  if (text === undefined) { location.href = url; return; }
  const page = new DOMParser().parseFromString(text, 'text/html');
  history.pushState(null, '', url);
  shown = location.href.split('#')[0];
  for (const id of awaited) {
    const old = document.getElementById(id), fresh = page.getElementById(id);
    if (old && fresh) swap(old, document.adoptNode(fresh)); else old?.removeAttribute('aria-busy');
  }
  awaited.clear();
  tick();
  if (url.hash) document.getElementById(url.hash.slice(1))?.scrollIntoView({ block: 'nearest' });
}

async function copy(button) {
  const from = document.getElementById(button.dataset.copy), said = button.textContent;
  try {
    await navigator.clipboard.writeText(from.textContent);
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = said; }, 1600);
  } catch { getSelection().selectAllChildren(from); }
}

// lit marks the lines of a drawing that end at a node.
function lit(e, on) {
  const node = e.target.closest?.('[data-node]');
  if (!node) return;
  const svg = node.closest('svg');
  svg.classList.toggle('lit', on);
  for (const line of $$('[data-ends]', svg)) line.classList.toggle('on', on && line.dataset.ends.split(' ').includes(node.dataset.node));
}

// tell gives what is cut off by its box a title with all of it. The server knows only what
// it has cut itself.
function tell(e) {
  const el = e.target.closest?.('main td, main .what, main .clip, main .sub, main .badge');
  if (!el || el.title || el.querySelector('[title]')) return;
  const cut = [el, ...$$('a, code, span', el)].find((x) => x.scrollWidth > x.clientWidth + 1 && getComputedStyle(x).textOverflow === 'ellipsis');
  if (cut) el.title = cut.textContent.trim().replace(/\s+/g, ' ');
}

// begin is for what needs the script to be seen.
function begin(from) { for (const b of $$('[data-copy]', from)) b.hidden = false; }

function onClick(e) {
  if (e.defaultPrevented || e.button || e.ctrlKey || e.metaKey || e.shiftKey || e.altKey) return;
  const link = e.target.closest('a[data-more], a[data-swap]'), button = e.target.closest('button[data-copy]');
  if (button) copy(button);
  else if (link) { e.preventDefault(); link.hasAttribute('data-more') ? more(link) : follow(link); }
}

// Theme: the system's, until chosen.

const themes = ['auto', 'light', 'dark'];

function showTheme(button) {
  const now = root.dataset.theme || 'auto';
  button.textContent = `Theme: ${now}`;
}

function nextTheme(button) {
  const next = themes[(themes.indexOf(root.dataset.theme || 'auto') + 1) % themes.length];
  if (next === 'auto') delete root.dataset.theme; else root.dataset.theme = next;
  try { localStorage.setItem('muster-theme', next); } catch { /* storage is off: for this page only */ }
  showTheme(button);
}

// Keys.

let prefix = 0;

function moveRow(by) {
  const rows = $$('main a.row').filter((a) => a.checkVisibility()); // not those that are folded away
  if (!rows.length) return;
  const at = rows.findIndex((a) => (a.closest('[data-row], tr, .proc, .fileline') ?? a).contains(document.activeElement) || a.closest('summary') === document.activeElement);
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by))];
  next.focus();
  next.scrollIntoView({ block: 'nearest' });
}

function onKey(e) {
  const typing = e.target.matches('input, select, textarea');
  if (typing && e.key === 'Enter' && (e.ctrlKey || e.metaKey) && e.target.matches('[data-submit]')) { e.target.form.requestSubmit(); return; }
  if (typing && e.key === 'Escape') e.target.blur();
  if (typing || e.ctrlKey || e.metaKey || e.altKey || $('#help').open) return;
  const went = Date.now() - prefix < 1500 && $(`nav a[data-key="g ${CSS.escape(e.key)}"]`);
  prefix = 0;
  if (went) location.href = went.href;
  else if (e.key === 'g') prefix = Date.now();
  else if (e.key === 'j') moveRow(1);
  else if (e.key === 'k') moveRow(-1);
  else if (/^Arrow(Left|Right)$/.test(e.key) && e.target.closest('.tree summary')) e.target.closest('details').open = e.key === 'ArrowRight';
  else if (e.key === '?') $('#help').showModal();
  else if (e.key === '/') { const field = $('[data-filter]'); if (!field) return; field.focus(); field.select?.(); }
  else return;
  e.preventDefault();
}

// Start.

for (const pre of $$('pre[data-tail]')) pre.scrollTop = pre.scrollHeight;
$$('[data-live][id]').forEach(note);
begin(document);
for (const tab of $$('.tabs [aria-current]')) tab.closest('ul').scrollLeft = tab.offsetLeft - tab.closest('ul').offsetLeft - 40;
tick();
setInterval(tick, 1000);
document.addEventListener('keydown', onKey);
document.addEventListener('click', onClick);
document.addEventListener('toggle', (e) => { if (e.target.open && e.target.dataset?.load) load(e.target); }, true);
for (const [on, off] of [['pointerover', 'pointerout'], ['focusin', 'focusout']]) {
  document.addEventListener(on, (e) => lit(e, true));
  document.addEventListener(off, (e) => lit(e, false));
}
document.addEventListener('pointerover', tell);
addEventListener('popstate', () => { if (location.href.split('#')[0] !== shown) location.reload(); });
document.addEventListener('visibilitychange', () => (document.hidden ? disconnect() : connect()));
document.addEventListener('focusout', () => { if (stale.size) later(200); });
for (const form of $$('form[data-auto]')) form.addEventListener('change', (e) => { if (e.target.matches('select')) form.requestSubmit(); });
for (const [id, act] of [['theme', nextTheme], ['keys', () => $('#help').showModal()]]) {
  const button = document.getElementById(id);
  if (!button) continue;
  button.hidden = false;
  button.addEventListener('click', () => act(button));
  if (id === 'theme') showTheme(button);
}
connect();
