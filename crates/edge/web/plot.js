// Line plots on canvas: crisp on any display, bounded, with losses drawn as marked breaks.

const MAX_POINTS = 300;
const GAP_MIN_WIDTH = 7; // px
const LANE = 46; // px of one lane
const PALETTE = ['ink', 'muted', 'line', 'card', 'gap', 's1', 's2', 's3', 's4'];

export const theme = {};

/** Reads the colours of the page's current scheme. */
export function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of PALETTE) theme[name] = style.getPropertyValue(`--${name}`).trim();
  theme.font = `10.5px ${style.getPropertyValue('--sans').trim()}`;
  theme.hatch = null;
}

/** The smallest calm number that is not below `value`. */
export function niceTop(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10].find((step) => step * unit >= value * 0.999) * unit;
}

function hatch(ctx) {
  if (theme.hatch) return theme.hatch;
  const tile = document.createElement('canvas');
  tile.width = tile.height = 12;
  const t = tile.getContext('2d');
  t.strokeStyle = theme.gap;
  t.globalAlpha = 0.55;
  t.lineWidth = 1.6;
  t.beginPath();
  for (const shift of [-12, 0, 12]) {
    t.moveTo(shift - 1, 13);
    t.lineTo(shift + 13, -1);
  }
  t.stroke();
  return (theme.hatch = ctx.createPattern(tile, 'repeat'));
}

export class Plot {
  /**
   * spec: {
   *   series: [{ color, fill, down, width }],   // `down` hangs from the middle line
   *   span,                                     // x units shown
   *   hole,                                     // x units without a point after which the line breaks
   *   top(max), format(value), ref(),           // the scale; `ref()` is a marked level { value, label }
   *   lanes,                                    // one lane and scale for each series, no axes
   *   bare,                                     // no axes, no end marks
   * }
   */
  constructor(canvas, spec) {
    this.canvas = canvas;
    this.spec = { top: niceTop, hole: Infinity, ...spec };
    this.points = []; // { x, v: [number | null], gap }
    this.ctx = canvas.getContext('2d');
    this.pending = false;
  }

  /** Adds a point; what is not newer than the last one is no news. */
  push(x, v) {
    const last = this.points.at(-1);
    if (last && x <= last.x) {
      if (last.x - x < this.spec.span * 4) return false;
      this.points.length = 0; // the publisher's clock was set back
    }
    this.points.push({ x, v, gap: this.pending && this.points.length > 0 });
    this.pending = false;
    const from = x - this.spec.span;
    while (this.points.length > MAX_POINTS || (this.points.length > 2 && this.points[1].x < from)) this.points.shift();
    return true;
  }

  /** The next point stands after a loss. */
  breakHere() {
    this.pending = true;
  }

  nearest(x) {
    let best = null;
    for (const p of this.points) if (!best || Math.abs(p.x - x) < Math.abs(best.x - x)) best = p;
    return best;
  }

  /** The x value under a pointer. */
  at(clientX, x1) {
    const box = this.canvas.getBoundingClientRect();
    const { left, right } = this.margins();
    const share = (clientX - box.left - left) / (box.width - left - right);
    return x1 - (1 - Math.min(1, Math.max(0, share))) * this.spec.span;
  }

  margins() {
    if (this.spec.bare) return { left: 0, right: 1, top: 2, bottom: 1 };
    if (this.spec.lanes) return { left: 2, right: 6, top: 0, bottom: 0 };
    return { left: 56, right: 8, top: 9, bottom: 21 };
  }

  /** Fits the pixels to the size on the page. */
  resize(width, height) {
    const dpr = Math.min(3, window.devicePixelRatio || 1);
    const [w, h] = [Math.round(width * dpr), Math.round(height * dpr)];
    if (this.canvas.width !== w || this.canvas.height !== h) [this.canvas.width, this.canvas.height] = [w, h];
    Object.assign(this, { dpr, w: width, h: height });
  }

  draw(x1, hover) {
    const { ctx, spec, w, h } = this;
    if (!w || !h) return;
    ctx.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    ctx.clearRect(0, 0, w, h);
    ctx.lineJoin = ctx.lineCap = 'round';
    const m = this.margins();
    const x0 = x1 - spec.span;
    const X = (x) => m.left + ((x - x0) / spec.span) * (w - m.left - m.right);
    const box = { l: m.left, r: w - m.right, t: m.top, b: h - m.bottom };
    if (spec.lanes) {
      spec.series.forEach((series, i) => {
        const lane = { ...box, t: i * LANE + 7, b: (i + 1) * LANE - 8 };
        let [low, high] = this.range(i, x0);
        if (!(high > low)) [low, high] = [low - 1, high + 1];
        this.rule(box.l, box.r, (i + 1) * LANE - 0.5, theme.line);
        this.trace(i, series, X, (v) => lane.b - ((v - low) / (high - low)) * (lane.b - lane.t), lane, x0);
      });
      box.b = spec.series.length * LANE - 1;
    } else {
      let max = 0;
      let down = false;
      spec.series.forEach((series, i) => {
        max = Math.max(max, this.range(i, x0)[1]);
        down ||= !!series.down;
      });
      const top = spec.top(max);
      const zero = down ? (box.t + box.b) / 2 : box.b;
      const Y = (v) => zero - (v / top) * (zero - box.t);
      if (!spec.bare) this.axes(box, Y, top, down, X, x0, x1);
      for (let i = spec.series.length - 1; i >= 0; i--) {
        const series = spec.series[i];
        this.trace(i, series, X, series.down ? (v) => Y(-v) : Y, { ...box, b: zero, far: series.down ? box.b : box.t }, x0);
      }
    }
    this.gaps(X, box);
    if (hover != null && this.points.length) {
      const x = Math.round(X(hover)) + 0.5;
      if (x < box.l || x > box.r) return;
      ctx.strokeStyle = theme.muted;
      ctx.lineWidth = 1;
      ctx.beginPath();
      ctx.moveTo(x, box.t - 4);
      ctx.lineTo(x, box.b);
      ctx.stroke();
    }
  }

  range(i, x0) {
    let [low, high] = [Infinity, -Infinity];
    for (const { x, v } of this.points) {
      if (x < x0 || v[i] == null) continue;
      if (v[i] < low) low = v[i];
      if (v[i] > high) high = v[i];
    }
    return low <= high ? [low, high] : [0, 0];
  }

  rule(x0, x1, y, color, dash = []) {
    const { ctx } = this;
    ctx.strokeStyle = color;
    ctx.lineWidth = 1;
    ctx.setLineDash(dash);
    ctx.beginPath();
    ctx.moveTo(x0, y);
    ctx.lineTo(x1, y);
    ctx.stroke();
    ctx.setLineDash([]);
  }

  axes(box, Y, top, down, X, x0, x1) {
    const { ctx, spec } = this;
    ctx.font = theme.font;
    ctx.textBaseline = 'middle';
    ctx.textAlign = 'right';
    for (const level of down ? [top, 0, -top] : [top, top / 2, 0]) {
      const y = Math.round(Y(level)) + 0.5;
      this.rule(box.l, box.r, y, theme.line);
      ctx.fillStyle = theme.muted;
      ctx.fillText(spec.format(Math.abs(level)), box.l - 8, y);
    }
    const ref = spec.ref?.();
    if (ref && ref.value <= top) {
      const y = Math.round(Y(ref.value)) + 0.5;
      this.rule(box.l, box.r, y, theme.muted, [2, 4]);
      ctx.textAlign = 'left';
      ctx.fillText(ref.label, box.l + 5, y + (y - box.t < 14 ? 9 : -8));
    }
    // A ruler of time: a tick each ten seconds, a long one each minute, fixed to "now".
    ctx.strokeStyle = theme.muted;
    ctx.globalAlpha = 0.6;
    ctx.beginPath();
    const ticks = Math.round(spec.span / 10_000);
    for (let i = 0; i <= ticks; i++) {
      const x = Math.round(X(x1 - i * 10_000)) - 0.5;
      ctx.moveTo(x, box.b + 2);
      ctx.lineTo(x, box.b + (i % 6 ? 4 : 7));
    }
    ctx.stroke();
    ctx.globalAlpha = 1;
    const y = box.b + 14;
    ctx.textAlign = 'right';
    ctx.fillText('now', box.r, y);
    ctx.textAlign = 'center';
    ctx.fillText('−1 min', X(x1 - 60_000), y);
    ctx.textAlign = 'left';
    ctx.fillText('−2 min', box.l, y);
  }

  /** One series: its pieces between breaks, filled to the base, with a mark at the end. */
  trace(i, series, X, Y, box, x0) {
    const { ctx, points, spec } = this;
    const color = theme[series.color];
    const pieces = [];
    let piece = null;
    let before = null;
    for (const p of points) {
      if (p.v[i] == null) continue;
      if (!piece || p.gap || p.x - before.x > spec.hole) pieces.push((piece = []));
      piece.push([X(p.x), Y(p.v[i])]);
      before = p;
    }
    ctx.save();
    ctx.beginPath();
    ctx.rect(box.l, 0, box.r - box.l + 6, this.h);
    ctx.clip();
    if (series.fill) {
      const shade = ctx.createLinearGradient(0, box.far ?? box.t, 0, box.b);
      shade.addColorStop(0, color);
      shade.addColorStop(1, `${color}00`); // the palette is #rrggbb
      ctx.fillStyle = shade;
      ctx.globalAlpha = 0.3;
      for (const line of pieces) {
        ctx.beginPath();
        ctx.moveTo(line[0][0], box.b);
        for (const [x, y] of line) ctx.lineTo(x, y);
        ctx.lineTo(line.at(-1)[0], box.b);
        ctx.fill();
      }
      ctx.globalAlpha = 1;
    }
    ctx.strokeStyle = ctx.fillStyle = color;
    ctx.lineWidth = series.width || 1.6;
    for (const line of pieces) {
      ctx.beginPath();
      if (line.length === 1) {
        ctx.arc(line[0][0], line[0][1], 1.5, 0, 7);
        ctx.fill();
        continue;
      }
      line.forEach(([x, y], n) => (n ? ctx.lineTo(x, y) : ctx.moveTo(x, y)));
      ctx.stroke();
    }
    if (piece && !spec.bare) {
      const [x, y] = piece.at(-1);
      ctx.beginPath();
      ctx.arc(x, y, 3, 0, 7);
      ctx.fill();
      ctx.lineWidth = 1.5;
      ctx.strokeStyle = theme.card;
      ctx.stroke();
    }
    ctx.restore();
  }

  gaps(X, box) {
    const { ctx, points } = this;
    points.forEach((p, i) => {
      if (!p.gap || !i) return;
      let [a, b] = [X(points[i - 1].x), X(p.x)];
      if (b - a < GAP_MIN_WIDTH) [a, b] = [(a + b - GAP_MIN_WIDTH) / 2, (a + b + GAP_MIN_WIDTH) / 2];
      [a, b] = [Math.max(box.l, a), Math.min(box.r, b)];
      if (b <= a) return;
      ctx.save();
      ctx.beginPath();
      ctx.rect(a, box.t, b - a, box.b - box.t);
      ctx.clip();
      ctx.globalAlpha = 0.1;
      ctx.fillStyle = theme.gap;
      ctx.fillRect(a, box.t, b - a, box.b - box.t);
      ctx.globalAlpha = 1;
      ctx.fillStyle = hatch(ctx);
      ctx.setTransform(1, 0, 0, 1, 0, 0);
      ctx.fillRect(0, 0, this.canvas.width, this.canvas.height);
      ctx.restore();
      if (b - a > 26 && !this.spec.lanes) {
        ctx.font = theme.font;
        ctx.textAlign = 'center';
        ctx.textBaseline = 'middle';
        const width = ctx.measureText('gap').width + 8;
        ctx.fillStyle = theme.card;
        ctx.fillRect((a + b - width) / 2, box.t + 3, width, 14);
        ctx.fillStyle = theme.gap;
        ctx.fillText('gap', (a + b) / 2, box.t + 10.5);
      }
    });
  }
}

export const laneHeight = LANE;
