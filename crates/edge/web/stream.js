// One EventSource, kept alive: the browser reconnects by itself with Last-Event-ID where it can;
// where it gives up for good (any answer but 200), a new one is made with `last_event_id=`.

const BACKOFF_FIRST = 1000; // ms
const BACKOFF_MAX = 30_000; // ms
const OPEN_MEANS_LIVE = 1500; // ms after which an open stream without a hello counts as live
const EXPLAIN_TIMEOUT = 5000; // ms
const HELLO_GAP_WAIT = 3000; // ms for the gap event that a hello has announced
const LEARNED_TYPES = 32; // event types listened to beside `message`

const parse = (text) => {
  try {
    const value = JSON.parse(text);
    return value && typeof value === 'object' ? value : {};
  } catch {
    return {};
  }
};

/** A number of ms between half of `ms` and all of it. */
const jitter = (ms) => Math.round(ms * (0.5 + Math.random() / 2));

/** Reads an RFC 9457 answer (or anything else) into words. */
export async function problemOf(response) {
  const body = parse((await response.text().catch(() => '')).slice(0, 4096));
  const line = (text) => (typeof text === 'string' ? text.slice(0, 400) : '');
  const title = line(body.title) || line(response.statusText) || 'Refused';
  return { status: response.status, title, detail: line(body.detail), retryAfter: Number(response.headers.get('retry-after')) || 0 };
}

export class Stream {
  /**
   * `on`: { state(name, { until, since }), hello(data), event(envelope), gap(data), id(text), problem(problem | null) }
   */
  constructor(on) {
    this.on = on;
    this.channels = [];
    this.types = new Set();
    this.lastId = '';
    this.state = '';
  }

  /** Follows these channels from now on; a new list starts with the newest `last` events of each. */
  follow(channels, last) {
    this.stop();
    Object.assign(this, { channels, last, lastId: '', failures: 0, refusedCursor: '' });
    this.on.problem(null);
    if (channels.length) this.open('connecting');
    else this.to('idle');
  }

  /** Also takes events of this type, which an EventSource drops unless it is told the name. */
  listen(type) {
    if (!type || this.types.has(type) || this.types.size >= LEARNED_TYPES || /^(message|open|error|fanfare\..*)$/.test(type)) return;
    this.types.add(type);
    this.source?.addEventListener(type, this.take);
  }

  /** Tries at once where a wait is under way, or where the stream is known to be dead. */
  wake(force = false) {
    if (!this.channels.length) return;
    if (force || this.timer || this.source?.readyState === EventSource.CLOSED) {
      this.stop();
      this.open('reconnecting');
    }
  }

  stop() {
    for (const timer of [this.timer, this.opened, this.promised]) clearTimeout(timer);
    this.timer = this.opened = this.promised = 0;
    this.probe?.abort();
    this.probe = null;
    this.source?.close();
    this.source = null;
  }

  address() {
    const url = new URL('events', document.baseURI);
    for (const channel of this.channels) url.searchParams.append('channel', channel);
    if (this.lastId) url.searchParams.set('last_event_id', this.lastId);
    else if (this.last) url.searchParams.set('last', this.last);
    url.searchParams.set('envelope', '1');
    return url;
  }

  to(state, wait = {}) {
    if (state !== this.state) this.since = Date.now();
    this.state = state;
    this.on.state(state, { since: this.since, until: wait.until || 0 });
  }

  open(state) {
    this.to(state);
    this.hint = 0;
    const source = (this.source = new EventSource(this.address()));
    source.onopen = (e) => {
      if (e instanceof MessageEvent) return this.take(e); // a publisher's event type may be "open"
      clearTimeout(this.opened);
      this.opened = setTimeout(() => this.live(), OPEN_MEANS_LIVE);
    };
    source.onerror = (e) => {
      if (e instanceof MessageEvent) return this.take(e); // or "error"
      this.broken(source);
    };
    source.onmessage = this.take;
    for (const type of this.types) source.addEventListener(type, this.take);
    source.addEventListener('fanfare.hello', (e) => this.hello(e));
    source.addEventListener('fanfare.gap', (e) => {
      clearTimeout(this.promised);
      this.on.gap(parse(e.data));
    });
    source.addEventListener('fanfare.close', (e) => {
      const { reason, retry_ms: ms } = parse(e.data);
      clearTimeout(this.opened);
      const draining = /drain|shut/i.test(reason);
      if (!draining) this.on.problem({ status: 0, title: 'The server closed the stream', detail: String(reason ?? '').replaceAll('_', ' ').slice(0, 200) });
      this.hint = Number(ms) > 0 ? Date.now() + Number(ms) : 0;
      this.to(draining ? 'draining' : 'reconnecting', { until: this.hint });
    });
  }

  hello(e) {
    const data = parse(e.data);
    this.see(e);
    this.live();
    if (this.refusedCursor) {
      this.on.gap({ channel: this.channels.join(', '), cause: 'cursor_refused', after: this.refusedCursor });
      this.refusedCursor = '';
    } else if (data.gap === true) {
      this.promised = setTimeout(() => this.on.gap({ channel: this.channels.join(', '), cause: 'resume' }), HELLO_GAP_WAIT);
    }
    this.on.hello(data);
  }

  live() {
    clearTimeout(this.opened);
    this.failures = 0;
    this.hint = 0;
    this.on.problem(null);
    if (this.state !== 'live') this.to('live');
  }

  see(e) {
    if (e.lastEventId && e.lastEventId !== this.lastId) this.on.id((this.lastId = e.lastEventId));
  }

  take = (e) => {
    this.see(e);
    if (this.state === 'connecting' || this.state === 'reconnecting') this.live();
    const box = parse(e.data);
    const enveloped = typeof box.channel === 'string' && 'data' in box;
    const data = enveloped ? box.data : e.data;
    this.on.event({
      channel: enveloped ? box.channel : this.channels[0],
      event: enveloped ? box.event || '' : e.type === 'message' ? '' : e.type,
      data: typeof data === 'string' ? data : JSON.stringify(data),
    });
  };

  broken(source) {
    if (source !== this.source) return;
    clearTimeout(this.opened);
    clearTimeout(this.promised);
    if (source.readyState === EventSource.CONNECTING) {
      this.to(this.lastId || this.hint ? 'reconnecting' : 'connecting', { until: this.hint });
      this.hint = 0;
    } else {
      this.replace(source);
    }
  }

  /** The browser has given up: asks why, waits, makes a new EventSource. */
  async replace(source) {
    this.source = null;
    this.to('reconnecting');
    const probe = (this.probe = new AbortController());
    const deadline = setTimeout(() => probe.abort(), EXPLAIN_TIMEOUT);
    let problem = null;
    try {
      const response = await fetch(source.url, { headers: { Accept: 'text/event-stream' }, cache: 'no-store', signal: probe.signal });
      if (!response.ok) problem = await problemOf(response);
    } catch {
      problem = { status: 0, title: 'No answer', detail: 'The server cannot be reached.', retryAfter: 0 };
    }
    clearTimeout(deadline);
    if (this.probe !== probe) return; // stopped meanwhile
    probe.abort();
    this.on.problem(problem);
    const lasting = problem && problem.status >= 400 && problem.status < 500 && ![408, 425, 429].includes(problem.status);
    if (problem?.status === 400 && this.lastId) {
      this.refusedCursor = this.lastId;
      this.lastId = '';
    }
    const grown = Math.min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** this.failures++);
    const asked = problem ? Math.min(problem.retryAfter, 300) * 1000 : 0;
    const wait = asked ? asked + jitter(1000) : jitter(lasting && !this.refusedCursor ? BACKOFF_MAX : grown);
    this.to('reconnecting', { until: Date.now() + wait });
    this.timer = setTimeout(() => {
      this.timer = 0;
      this.open('reconnecting');
    }, wait);
  }
}
