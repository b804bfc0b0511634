// The page: which channels, what is shown of them. Text from publishers goes in as text only.

import { Stream, problemOf } from './stream.js';
import { Plot, laneHeight, readTheme } from './plot.js';

const REPLAY = 120; // events of each channel to start with
const SPAN = 120_000; // ms shown by the system cards
const HOLE = 5000; // ms without a figure after which a line breaks
const MAX_CHANNELS = 32;
const MAX_CARDS = 12;
const MAX_FIELDS = 4; // plotted fields of one channel
const MAX_ROWS = 100; // rows in the list of events
const MAX_GAPS = 50; // rows in the list of gaps
const MAX_TEXT = 4000; // characters kept of one event's data
const MAX_PARSED = 65_536; // characters above which data is not searched for numbers
const PACE = 45; // ms between drawings at the least
const FLUSH = 200; // ms between updates of lists
const RATE_WINDOW = 5; // seconds the rate is taken over
const RATE_SHOWN = 60; // seconds in its plot
const STALE = 15_000; // ms without an event after which a demo's live stream is taken for dead

const $ = (id) => document.getElementById(id);
const still = matchMedia('(prefers-reduced-motion: reduce)');
const whole = new Intl.NumberFormat('en');

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// ---- figures in words

const plain = (v) => {
  if (v == null || !Number.isFinite(v)) return '–';
  const size = Math.abs(v);
  if (size >= 1e15 || (size && size < 1e-4)) return v.toExponential(2);
  return new Intl.NumberFormat('en', { maximumFractionDigits: size >= 1000 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 4 }).format(v);
};
const percent = (v) => (v == null ? '–' : `${Math.round(v * 100)}%`);
const scaled = (v, units, base) => {
  if (v == null || !Number.isFinite(v)) return ['–', ''];
  let i = 0;
  while (Math.abs(v) >= base * 0.9995 && i < units.length - 1) {
    v /= base;
    i++;
  }
  return [i && Math.abs(v) < 99.95 ? v.toFixed(1) : String(Math.round(v)), units[i]];
};
const bytes = (v) => scaled(v, ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'], 1024);
const speed = (v) => scaled(v, ['B/s', 'kB/s', 'MB/s', 'GB/s', 'TB/s'], 1000);
const words = (pair) => pair.filter(Boolean).join(' ');
const level = ([size, unit]) => (size === '0' ? '0' : `${size.replace('.0', '')} ${unit}`);
const two = (v) => (v == null ? '–' : v.toFixed(2));
const span = (ms) => {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
};
const clock = (date, fine) => {
  const pad = (n, width = 2) => String(n).padStart(width, '0');
  const text = [date.getHours(), date.getMinutes(), date.getSeconds()].map((n) => pad(n)).join(':');
  return fine ? `${text}.${pad(date.getMilliseconds(), 3)}` : text;
};

const CAUSES = {
  evicted: 'Retention had removed them before they were asked for.',
  new_epoch: 'The log began again, as after a restart of an in-memory server.',
  reconnected: 'The link to the bus was cut, and the bus keeps nothing.',
  lagged: 'The node took events up more slowly than they came.',
  not_followed: 'The node did not follow the channel at that time.',
  undeliverable: 'A publisher sent what cannot be delivered.',
  slow: 'This client read more slowly than events came.',
  conflated: 'This client read slowly; only the newest were kept.',
  filter: 'A filter failed on them.',
  unavailable: 'History could not be read.',
  cursor_refused: 'The server did not accept the last event id.',
  resume: 'The server said on resuming that events are missing.',
};

// ---- cards

const number = (v) => (typeof v === 'number' && Number.isFinite(v) ? v : null);
const view = { x1: 0, target: 0, hover: null };
let dirty = true;

/** The four channels of `fanfare demo`. `read` turns data into figures, or null where the shape is another. */
const SYSTEM = {
  'system.cpu': (facts) => ({
    title: 'CPU',
    series: [
      { name: 'usage', color: 's1', fill: true, width: 1.8, words: percent },
      { name: 'user', color: 's2', words: percent },
      { name: 'system', color: 's3', words: percent },
    ],
    plot: { top: () => 1, format: percent },
    bars: true,
    read(d) {
      if (number(d.usage) == null) return null;
      facts.cores = number(d.cores) ?? facts.cores;
      return {
        v: [d.usage, number(d.user), number(d.system)],
        big: [String(Math.round(d.usage * 100)), '%'],
        sub: `${d.cores === 1 ? '1 core' : `${number(d.cores) ?? '–'} cores`} · I/O wait ${percent(number(d.iowait))}`,
        bars: Array.isArray(d.per_core) ? d.per_core.slice(0, 64) : [],
      };
    },
  }),
  'system.memory': (facts) => ({
    title: 'Memory',
    series: [
      { name: 'used', color: 's1', fill: true, width: 1.8, words: (v) => words(bytes(v)) },
      { name: 'cached', color: 's2', words: (v) => words(bytes(v)) },
    ],
    plot: {
      top: (max) => facts.memory || max || 1,
      format: (v) => level(bytes(v)),
    },
    read(d) {
      if (number(d.used) == null || !(d.total > 0)) return null;
      facts.memory = d.total;
      const swap = d.swap_total > 0 ? `swap ${words(bytes(number(d.swap_used)))} of ${words(bytes(d.swap_total))}` : 'no swap';
      return { v: [d.used, number(d.cached)], big: bytes(d.used), sub: `${percent(d.used / d.total)} of ${words(bytes(d.total))} · ${swap}` };
    },
  }),
  'system.load': (facts) => ({
    title: 'Load',
    series: [
      { name: '1 min', color: 's1', fill: true, width: 1.8, words: two },
      { name: '5 min', color: 's2', words: two },
      { name: '15 min', color: 's3', words: two },
    ],
    plot: {
      format: (v) => String(Number(v.toFixed(2))),
      ref: () => facts.cores && { value: facts.cores, label: 'all cores busy' },
    },
    read(d) {
      if (number(d.one) == null) return null;
      return { v: [d.one, number(d.five), number(d.fifteen)], big: [two(d.one), ''], sub: `${number(d.tasks_running) ?? '–'} of ${number(d.tasks) ?? '–'} tasks running` };
    },
  }),
  'system.network': () => ({
    title: 'Network',
    series: [
      { name: 'received', color: 's1', fill: true, words: (v) => words(speed(v)) },
      { name: 'sent', color: 's2', fill: true, down: true, words: (v) => words(speed(v)) },
    ],
    plot: { format: (v) => level(speed(v)) },
    read(d) {
      const [rx, tx] = [number(d.rx_bytes_per_second), number(d.tx_bytes_per_second)];
      if (rx == null || tx == null) return null;
      const names = (Array.isArray(d.interfaces) ? d.interfaces : []).slice(0, 6).map((i) => String(i?.name ?? '').slice(0, 16));
      return { v: [rx, tx], big: speed(rx + tx), sub: `in and out · ${names.filter(Boolean).join(', ') || 'no interfaces'}` };
    },
  }),
};

class Card {
  constructor(channel, title) {
    this.channel = channel;
    this.canvas = h('canvas', { 'data-plot': channel, role: 'img', 'aria-label': `${title} on ${channel}, newest at the right` });
    this.node = h('article', { class: 'card', 'data-testid': `card-${channel}`, 'aria-label': `${title}, ${channel}` });
  }

  watch(plot, timed) {
    this.plot = plot;
    sizes.observe(this.canvas);
    plots.set(this.canvas, this);
    const move = (e) => {
      const x = e && plot.at(e.clientX, timed ? view.x1 : this.n);
      if (timed) view.hover = x;
      else this.hover = x;
      dirty = true;
    };
    this.canvas.addEventListener('pointermove', move);
    for (const end of ['pointerleave', 'pointercancel']) this.canvas.addEventListener(end, () => move(null));
  }

  clear() {
    this.plot.points.length = 0;
  }
}

class SystemCard extends Card {
  constructor(channel, facts) {
    const spec = SYSTEM[channel](facts);
    super(channel, spec.title);
    this.spec = spec;
    this.big = h('b', {}, '–');
    this.unit = h('small');
    this.sub = h('p', { class: 'sub' }, 'waiting for the first figures');
    this.bars = h('div', { class: 'bars', 'aria-hidden': 'true' });
    this.values = spec.series.map(() => h('b', {}, '–'));
    const legend = spec.series.map((s, i) => h('li', {}, h('i', { class: s.color }), `${s.name} `, this.values[i]));
    this.node.append(
      h('header', {}, h('div', {}, h('h3', {}, spec.title), h('code', {}, channel)), this.bars, h('p', { class: 'big' }, this.big, this.unit)),
      this.sub,
      this.canvas,
      h('ul', { class: 'legend' }, ...legend),
    );
    this.node.classList.add('waiting');
    this.watch(new Plot(this.canvas, { series: spec.series, span: SPAN, hole: HOLE, ...spec.plot }), true);
  }

  take(data) {
    const at = number(data?.at);
    const figures = at && this.spec.read(data);
    if (!figures || !this.plot.push(at, figures.v)) return;
    this.now = figures;
    if (at > view.target || view.target - at > SPAN * 4) view.target = at;
  }

  show() {
    if (!this.now) return;
    this.node.classList.remove('waiting');
    put(this.big, this.now.big[0]);
    put(this.unit, this.now.big[1]);
    put(this.sub, this.now.sub);
    const point = view.hover == null ? this.plot.points.at(-1) : this.plot.nearest(view.hover);
    this.spec.series.forEach((s, i) => put(this.values[i], s.words(point?.v[i])));
    if (this.spec.bars) {
      while (this.bars.children.length < this.now.bars.length) this.bars.append(h('i'));
      while (this.bars.children.length > this.now.bars.length) this.bars.lastChild.remove();
      this.now.bars.forEach((v, i) => this.bars.children[i].style.setProperty('--v', percent(number(v) ?? 0)));
    }
  }

  draw() {
    this.plot.draw(view.x1, view.hover);
  }
}

/** Any channel: each numeric field of its JSON is a lane, point after point. */
class FieldsCard extends Card {
  constructor(channel) {
    super(channel, 'Numbers');
    this.n = 0;
    this.fields = new Map(); // name → { row, value, range }
    this.rows = h('ul', { class: 'fields' });
    this.count = h('span', { class: 'count' });
    this.node.classList.add('lanes');
    this.node.append(h('header', {}, h('h3', {}, channel), this.count), h('div', { class: 'lane-box' }, this.rows, this.canvas));
    this.watch(new Plot(this.canvas, { series: [], span: REPLAY - 1, lanes: true }), false);
  }

  take(data) {
    const found = numbersIn(data);
    if (!found.size) return;
    for (const name of found.keys()) if (!this.fields.has(name) && this.fields.size < MAX_FIELDS) this.add(name);
    this.plot.push(++this.n, [...this.fields.keys()].map((name) => found.get(name) ?? null));
  }

  add(name) {
    const field = { value: h('b', {}, '–'), range: h('span') };
    this.rows.append(h('li', {}, h('span', { class: 'name' }, name), field.value, field.range));
    this.plot.spec.series.push({ color: `s${(this.fields.size % 4) + 1}`, fill: true });
    this.fields.set(name, field);
    this.canvas.style.height = `${this.fields.size * laneHeight}px`;
  }

  show() {
    const point = this.hover == null ? this.plot.points.at(-1) : this.plot.nearest(this.hover);
    put(this.count, `${whole.format(this.n)} plotted`);
    [...this.fields.values()].forEach((field, i) => {
      const [low, high] = this.plot.range(i, this.n - REPLAY + 1);
      put(field.value, plain(point?.v[i]));
      put(field.range, low === high ? 'steady' : `${plain(low)} to ${plain(high)}`);
    });
  }

  draw() {
    this.plot.draw(this.n, this.hover);
  }
}

/** The numbers of a JSON value by path, two levels deep; times and ids are no measures. */
function numbersIn(data) {
  const found = new Map();
  if (number(data) != null) return found.set('value', data);
  const walk = (value, path, depth) => {
    for (const [key, item] of Object.entries(value).slice(0, 64)) {
      if (found.size >= 16) return;
      const name = `${path}${key}`.slice(0, 60);
      if (number(item) != null && !/^(at|ts|time|timestamp|id|.*_(id|at|ms|ts))$/i.test(key)) found.set(name, item);
      else if (depth && item && typeof item === 'object' && !Array.isArray(item)) walk(item, `${name}.`, depth - 1);
    }
  };
  if (data && typeof data === 'object' && !Array.isArray(data)) walk(data, '', 1);
  return found;
}

const cards = new Map(); // channel → Card
const plots = new Map(); // canvas → Card
const facts = {}; // what one system channel knows and another card shows
const sizes = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) plots.get(target)?.plot.resize(contentRect.width, contentRect.height);
  for (const { target } of entries) plots.get(target)?.draw(); // at once: a resized canvas is blank
});

function cardFor(channel, data) {
  let card = cards.get(channel);
  if (card) return card;
  const known = Object.hasOwn(SYSTEM, channel);
  if (cards.size >= MAX_CARDS || (!known && !numbersIn(data).size)) return null;
  card = known ? new SystemCard(channel, facts) : new FieldsCard(channel);
  cards.set(channel, card);
  $('cards').append(card.node);
  $('plots-empty').hidden = true;
  return card;
}

function dropCards() {
  for (const card of cards.values()) {
    sizes.unobserve(card.canvas);
    plots.delete(card.canvas);
    card.node.remove();
  }
  cards.clear();
  $('plots-empty').hidden = false;
}

/** Whether a channel lies in a pattern (`*` one segment, `>` the rest); an unreadable pattern holds all. */
function within(pattern, channel) {
  if (typeof pattern !== 'string' || !pattern) return true;
  return pattern.split(/,\s*/).some((one) => {
    const names = channel.split('.');
    const parts = one.split('.');
    return parts.every((part, i) => part === '>' || (i < names.length && (part === '*' || part === names[i]))) && (parts.at(-1) === '>' || parts.length === names.length);
  });
}

// ---- lists

let waiting = []; // events not yet in the list, oldest first
let skipped = 0; // of them, dropped because newer ones fill the list
let paused = false;

function row({ at, channel, event, data, size }) {
  const node = h('li', { tabindex: '-1' }, h('time', {}, clock(at, true)), h('code', {}, channel));
  if (event) node.append(h('em', {}, event));
  const text = size > data.length ? `${data} … (${whole.format(size)} characters)` : data;
  node.append(h('pre', {}, text || '(empty)'));
  return node;
}

function flushFeed() {
  if (!waiting.length || document.hidden) return;
  if (paused) return put($('pause'), `Resume · ${whole.format(waiting.length + skipped)} new`);
  const list = $('feed');
  list.prepend(...waiting.reverse().map(row));
  waiting = [];
  skipped = 0;
  while (list.children.length > MAX_ROWS) list.lastChild.remove();
  $('feed-empty').hidden = true;
}

function showGap({ channel, cause, after, next }) {
  const bound = (value) => (value == null || value === '' ? null : typeof value === 'string' ? value.slice(0, 200) : JSON.stringify(value).slice(0, 200));
  const [from, to] = [bound(after), bound(next)];
  const name = String(cause ?? 'unknown').slice(0, 60);
  const text = Object.hasOwn(CAUSES, name) ? CAUSES[name] : 'Events are missing.';
  const bounds = h('p', { class: 'bounds' });
  for (const [label, value] of [['after', from], ['next', to]]) bounds.append(h('span', {}, `${label} `), h('code', {}, value ?? 'not known'), ' ');
  const node = h('li', {}, h('p', {}, h('strong', {}, name.replaceAll('_', ' ')), h('code', {}, String(channel ?? 'all channels').slice(0, 255)), h('time', {}, clock(new Date()))), h('p', {}, text), bounds);
  const list = $('gap-list');
  list.prepend(node);
  while (list.children.length > MAX_GAPS) list.lastChild.remove();
  $('gaps-empty').hidden = true;
}

// ---- the connection

const seconds = new Array(RATE_SHOWN + 1).fill(0); // events in each of the last seconds; the last is under way
const rate = new Plot(document.querySelector('[data-plot=rate]'), {
  series: [{ color: 's1', fill: true, width: 1.4 }], span: RATE_SHOWN - 1, bare: true, top: (max) => Math.max(1, max),
});
plots.set(rate.canvas, { plot: rate, draw: () => rate.draw(rate.points.at(-1)?.x ?? 0, null) });
sizes.observe(rate.canvas);

let total = 0;
let gaps = 0;
let page = { title: 'Fanfare', channels: [], demo: false };
let status = { state: 'idle', until: 0, since: Date.now() };
let lastEventAt = 0;
let replayUntil = 0; // events before this are a replay and no rate
let steady = 0; // whole seconds counted since then
let tick = 0;
while (tick < RATE_SHOWN) rate.push(++tick, [0]);
let ticked = Date.now();

const stream = new Stream({
  state(state, { until, since }) {
    status = { state, until, since };
    lastEventAt = Date.now();
    document.body.dataset.state = state;
    put($('state'), state);
    showStatus();
  },
  hello(data) {
    if (typeof data.node === 'string') put($('node'), data.node.slice(0, 64));
    replayUntil = Date.now() + 1000;
    steady = 0;
  },
  id(text) {
    stream.shownId = text;
    dirty = true;
  },
  event(e) {
    total++;
    lastEventAt = Date.now();
    if (lastEventAt > replayUntil) seconds[RATE_SHOWN]++;
    dirty = true;
    let data;
    if (e.data.length <= MAX_PARSED && /^\s*[-{\d]/.test(e.data)) {
      try {
        data = JSON.parse(e.data);
      } catch {
        // not JSON: nothing to plot
      }
    }
    if (data !== undefined) cardFor(e.channel, data)?.take(data);
    waiting.push({ at: new Date(), channel: e.channel, event: e.event, data: e.data.slice(0, MAX_TEXT), size: e.data.length });
    if (waiting.length > MAX_ROWS) {
      waiting.shift();
      skipped++;
    }
  },
  gap(data) {
    gaps++;
    dirty = true;
    showGap(data);
    for (const card of cards.values()) if (within(data.channel, card.channel)) card.plot.breakHere();
  },
  problem(problem) {
    $('notice').hidden = !problem;
    if (problem) put($('notice-text'), refusal(problem));
  },
});

/** A refusal in plain words. */
function refusal({ status, title, detail, retryAfter }) {
  const lead = {
    400: 'Not accepted.',
    401: 'A token is needed.',
    403: 'Not allowed.',
    404: 'Not found.',
    413: 'Too large.',
    429: 'Too many at once.',
    503: 'Not available just now.',
  }[status];
  const rest = detail && detail !== title ? `${title}: ${detail}` : title;
  const text = lead ? `${lead} ${rest}` : rest;
  return `${text.trim().replace(/([^.!?])$/, '$1.')}${status ? ` (${status}${retryAfter ? `, again in ${retryAfter} s` : ''})` : ''}`;
}

function showStatus() {
  const { state, until, since } = status;
  const now = Date.now();
  let more = '';
  if (until > now) more = ` in ${Math.ceil((until - now) / 1000)} s`;
  else if (state === 'reconnecting' && now - since > 1500) more = ` for ${span(now - since)}`;
  put($('state-more'), more);
  put($('uptime'), state === 'live' ? span(now - since) : '–');
}

function showFigures() {
  put($('events'), whole.format(total));
  put($('gaps'), whole.format(gaps));
  put($('last-id'), stream.shownId || '–');
  $('last-id').title = stream.shownId || '';
  document.body.classList.toggle('has-gaps', gaps > 0);
}

setInterval(() => {
  showStatus();
  const now = Date.now();
  const passed = Math.min(RATE_SHOWN, Math.max(1, Math.round((now - ticked) / 1000))); // a hidden tab ticks less often
  ticked = now;
  const counted = seconds.pop() / passed;
  for (let i = 0; i < passed; i++) {
    seconds.shift();
    seconds.push(counted);
    rate.push(++tick, [counted]);
  }
  seconds.push(0);
  steady = status.state !== 'live' ? 0 : now > replayUntil ? steady + passed : steady;
  const recent = seconds.slice(-1 - Math.min(RATE_WINDOW, steady), -1);
  put($('rate'), recent.length ? plain(Math.round((recent.reduce((a, b) => a + b, 0) / recent.length) * 10) / 10) : '–');
  dirty = true;
  if (page.demo && status.state === 'live' && now - lastEventAt > STALE) stream.wake(true);
}, 1000);
setInterval(flushFeed, FLUSH);

let drawn = 0;
function frame(now) {
  requestAnimationFrame(frame); // the browser pauses this while the tab is hidden
  if (now - drawn < PACE) return;
  const ahead = view.target - view.x1;
  if (ahead) {
    view.x1 = still.matches || Math.abs(ahead) > 5000 || Math.abs(ahead) < 25 ? view.target : view.x1 + ahead * 0.4;
    dirty = true;
  }
  if (!dirty) return;
  dirty = false;
  drawn = now;
  showFigures();
  for (const card of cards.values()) card.show();
  for (const owner of plots.values()) owner.draw();
}

// ---- which channels

function wanted() {
  const asked = new URLSearchParams(location.search).getAll('channel');
  return [...new Set((asked.length ? asked : page.channels).map((c) => c.trim()).filter(Boolean))].slice(0, MAX_CHANNELS);
}

function choose(channels) {
  const url = new URL(location.href);
  url.searchParams.delete('channel');
  for (const channel of channels) url.searchParams.append('channel', channel);
  history.pushState(null, '', url);
  follow();
}

function follow() {
  const channels = wanted();
  const chips = channels.map((channel) => {
    const remove = h('button', { type: 'button', 'aria-label': `Stop following ${channel}` }, '×');
    remove.addEventListener('click', () => {
      choose(wanted().filter((c) => c !== channel));
      $('add').focus();
    });
    return h('li', {}, h('code', {}, channel), remove);
  });
  $('chips').replaceChildren(...chips);
  dropCards();
  view.x1 = view.target = 0;
  $('feed').replaceChildren();
  waiting = [];
  $('feed-empty').hidden = false;
  put($('feed-empty'), channels.length ? 'Waiting for the first event.' : 'Choose a channel above: a name such as orders.eu, or a pattern such as orders.>');
  for (const channel of Object.keys(SYSTEM)) if (channels.some((c) => within(c, channel))) cardFor(channel);
  stream.shownId = '';
  stream.follow(channels, REPLAY);
  const literal = channels.find((c) => !/[*>]/.test(c));
  const into = literal ?? (channels[0] ?? 'demo.>').replace(/[*>]/g, 'note');
  const field = $('publish').elements.channel;
  if (field.value === field.defaultValue) field.value = field.defaultValue = into;
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const events = new URL('events', document.baseURI);
  for (const channel of channels.length ? channels : ['demo.>']) events.searchParams.append('channel', channel);
  put($('sh-watch'), `curl -N ${quote(events.href)}`);
  put($('sh-publish'), `curl -d 'hello' ${quote(new URL(`publish/${encodeURIComponent(into)}`, document.baseURI).href)}`);
  dirty = true;
}

// ---- what the user does

$('follow').addEventListener('submit', (e) => {
  e.preventDefault();
  const more = $('add').value.split(/[\s,]+/).filter(Boolean);
  if (!more.length) return;
  $('add').value = '';
  choose([...new Set([...wanted(), ...more])].slice(0, MAX_CHANNELS));
});

$('pause').addEventListener('click', () => {
  paused = !paused;
  $('pause').setAttribute('aria-pressed', String(paused));
  put($('pause'), paused ? 'Resume' : 'Pause');
  flushFeed();
});

$('feed').addEventListener('click', (e) => {
  if (!String(getSelection())) e.target.closest('li')?.classList.toggle('open');
});
$('feed').addEventListener('keydown', (e) => {
  const at = e.target.closest('li');
  const to = { ArrowDown: at ? at.nextElementSibling : $('feed').firstElementChild, ArrowUp: at?.previousElementSibling }[e.key];
  if (to) to.focus();
  else if (at && (e.key === 'Enter' || e.key === ' ')) at.classList.toggle('open');
  else return;
  e.preventDefault();
});

$('publish').addEventListener('submit', async (e) => {
  e.preventDefault();
  const form = e.target.elements;
  const [channel, type, result] = [form.channel.value.trim(), form.event.value.trim(), $('publish-result')];
  const url = new URL(`publish/${encodeURIComponent(channel)}`, document.baseURI);
  if (type) url.searchParams.set('event', type);
  stream.listen(type);
  const say = (kind, text) => {
    result.className = kind;
    put(result, text);
  };
  say('', 'Publishing …');
  try {
    const response = await fetch(url, { method: 'POST', body: form.data.value, headers: { 'Content-Type': 'text/plain; charset=utf-8' }, signal: AbortSignal.timeout(10_000) });
    if (!response.ok) return say('bad', refusal(await problemOf(response)));
    const answer = await response.json().catch(() => ({}));
    say('good', `Published on ${String(answer.channel ?? channel)}${answer.id ? ` as ${String(answer.id).slice(0, 120)}` : ''}`);
  } catch {
    say('bad', 'No answer. The server cannot be reached.');
  }
});

$('retry').addEventListener('click', () => stream.wake(true));
addEventListener('popstate', follow);
addEventListener('online', () => stream.wake());
addEventListener('pageshow', () => stream.wake());
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  dirty = true;
  stream.wake();
});
const repaint = () => {
  readTheme();
  dirty = true;
};
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', repaint);

// ---- start

async function about() {
  for (let wait = 250; wait <= 1000; wait *= 2) {
    try {
      const response = await fetch(new URL('page.json', document.baseURI), { cache: 'no-store', signal: AbortSignal.timeout(3000) });
      return response.ok ? await response.json() : {};
    } catch {
      await new Promise((done) => setTimeout(done, wait));
    }
  }
  return {};
}

readTheme();
for (const type of new URLSearchParams(location.search).getAll('event')) stream.listen(type);
const told = await about();
page = {
  title: typeof told.title === 'string' && told.title ? told.title.slice(0, 80) : 'Fanfare',
  channels: Array.isArray(told.channels) ? told.channels.filter((c) => typeof c === 'string') : [],
  demo: told.demo === true,
};
document.title = page.title;
put($('title'), page.title);
if (typeof told.node === 'string') put($('node'), told.node.slice(0, 64));
document.body.dataset.mode = page.demo ? 'demo' : 'console';
const order = page.demo ? ['plots', 'gaps-panel', 'feed-panel', 'publish-panel', 'shell-panel'] : ['feed-panel', 'publish-panel', 'gaps-panel', 'plots', 'shell-panel'];
$('main').append(...order.map($));
$('main').hidden = false;
follow();
requestAnimationFrame(frame);
