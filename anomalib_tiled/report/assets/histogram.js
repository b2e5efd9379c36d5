// Score distributions: normal and unlabelled images upwards, anomalous ones downwards, and a threshold to drag.

const HANDLE_STEPS = 200;

/** Number of images per bin for each truth; bins of equal width over the range. */
function histogramOf(images, range, bins) {
  const width = (range[1] - range[0]) / bins;
  const counts = { [NORMAL]: [], [ANOMALOUS]: [], [UNKNOWN]: [] };
  for (const each of Object.values(counts)) for (let bin = 0; bin < bins; bin += 1) each.push(0);
  for (const image of images) {
    if (image.score === null) continue;
    const bin = Math.floor((image.score - range[0]) / width);
    counts[truthOf(image)][Math.max(0, Math.min(bins - 1, bin))] += 1;
  }
  const middles = counts[NORMAL].map((_, bin) => range[0] + (bin + 0.5) * width);
  return { middles, counts };
}

function heightOf(count, isLog) {
  return isLog ? Math.log10(1 + count) : count;
}

function countAt(height, isLog) {
  return Math.round(isLog ? 10 ** Math.abs(height) - 1 : Math.abs(height));
}

/** Where the axis of counts has a line: 1, 10, 100 if it is logarithmic, round numbers otherwise. */
function countTicks(most, isLog) {
  const step = Math.max(1, 10 ** Math.floor(Math.log10(Math.max(1, most / 2))));
  const stride = most / step > 6 ? 2 * step : step;
  const ticks = [];
  if (isLog) for (let count = 1; count <= most; count *= 10) ticks.push(count);
  else for (let count = stride; count <= most; count += stride) ticks.push(count);
  return ticks.map((count) => heightOf(count, isLog));
}

/** A fill that is strong on the wrong side of the threshold, and soft on the right one. */
function sidedFill(plot, name, isWrongAbove, threshold) {
  const { left, width } = plot.bbox;
  const place = (plot.valToPos(threshold, "x", true) - left) / width;
  const split = Math.max(0, Math.min(1, place));
  const gradient = plot.ctx.createLinearGradient(left, 0, left + width, 0);
  const sides = isWrongAbove ? [`${name}-soft`, name] : [name, `${name}-soft`];
  [
    [0, sides[0]],
    [split, sides[0]],
    [split, sides[1]],
    [1, sides[1]],
  ].forEach(([at, side]) => {
    gradient.addColorStop(at, colour(side));
  });
  return gradient;
}

function axisStyle(extra) {
  return {
    stroke: () => colour("quiet"),
    grid: { stroke: () => colour("line"), width: 1 },
    ticks: { show: false },
    font: "12px system-ui, sans-serif",
    ...extra,
  };
}

class Histogram {
  /**
   * @param {HTMLElement} home - Element that it fills.
   * @param {object[]} images - The images.
   * @param {number[]} range - Lowest and highest score on the axis.
   * @param {object} state - Holds `threshold` and `band`.
   * @param {function(number): void} onchange - Called with a threshold that the reader has moved.
   */
  constructor(home, images, range, state, onchange) {
    Object.assign(this, { home, images, range, state, onchange });
    this.bins = home.clientWidth < 480 ? 24 : 44;
    this.isLog = false;
    this.handle = this.makeHandle();
    this.plot = new uPlot(this.options(), this.data(), home);
    this.plot.over.append(this.handle);
    this.plot.over.addEventListener("pointerdown", (event) => this.jump(event));
    new ResizeObserver(oncePerFrame(() => this.resize())).observe(home);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.plot.redraw());
    this.show();
  }

  data() {
    const { middles, counts } = histogramOf(this.images, this.range, this.bins);
    const heights = (truth, sign) => counts[truth].map((count) => (count ? sign * heightOf(count, this.isLog) : null));
    this.most = Math.max(1, ...counts[NORMAL], ...counts[UNKNOWN], ...counts[ANOMALOUS]);
    this.up = Math.max(0, ...counts[NORMAL], ...counts[UNKNOWN]);
    this.down = Math.max(0, ...counts[ANOMALOUS]);
    return [middles, heights(UNKNOWN, 1), heights(NORMAL, 1), heights(ANOMALOUS, -1)];
  }

  series(name, isWrongAbove) {
    const paths = uPlot.paths.bars({ size: [0.9, 60] });
    const fill = (plot) => sidedFill(plot, name, isWrongAbove, this.state.threshold);
    return { paths, width: 0, points: { show: false }, fill };
  }

  options() {
    const ticks = () => {
      const within = (most) => countTicks(most, this.isLog);
      return [
        ...within(this.down)
          .map((tick) => -tick)
          .reverse(),
        0,
        ...within(this.up),
      ];
    };
    return {
      width: this.home.clientWidth || 320,
      height: this.home.clientHeight || 240,
      padding: [8, 12, 0, 0],
      cursor: { show: false },
      legend: { show: false },
      scales: {
        x: { time: false, range: () => this.range },
        y: { range: () => [-1.08 * heightOf(this.down, this.isLog), 1.08 * heightOf(this.up, this.isLog)] },
      },
      axes: [
        axisStyle({ size: 28, space: 70 }),
        axisStyle({
          size: 44,
          splits: ticks,
          values: (_, heights) => heights.map((height) => String(countAt(height, this.isLog))),
        }),
      ],
      series: [{}, this.series("unknown", true), this.series("normal", true), this.series("anomalous", false)],
      hooks: { drawClear: [(plot) => this.drawBand(plot)] },
    };
  }

  drawBand(plot) {
    if (this.state.band === null) return;
    const [left, right] = this.state.band.map((score) => plot.valToPos(score, "x", true));
    const { top, height } = plot.bbox;
    plot.ctx.save();
    plot.ctx.beginPath();
    plot.ctx.rect(plot.bbox.left, top, plot.bbox.width, height);
    plot.ctx.clip();
    plot.ctx.fillStyle = colour("uncertain-soft");
    plot.ctx.fillRect(left, top, right - left, height);
    plot.ctx.restore();
  }

  makeHandle() {
    const handle = el(
      "div",
      { class: "handle", role: "slider", tabindex: "0", "aria-label": "Threshold", "aria-orientation": "horizontal" },
      el("span", { class: "grip" }),
    );
    handle.setAttribute("aria-valuemin", this.range[0]);
    handle.setAttribute("aria-valuemax", this.range[1]);
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      handle.focus();
      event.preventDefault();
    });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) this.move(event.clientX);
    });
    handle.addEventListener("keydown", (event) => this.step(event));
    return handle;
  }

  /** Take the threshold to where a mouse clicks; a finger scrolls the page, and drags the handle only. */
  jump(event) {
    if (event.pointerType !== "mouse" || this.handle.contains(event.target)) return;
    this.move(event.clientX);
    this.handle.setPointerCapture(event.pointerId);
    this.handle.focus();
    event.preventDefault();
  }

  move(clientX) {
    const box = this.plot.over.getBoundingClientRect();
    const pixel = (this.range[1] - this.range[0]) / box.width;
    const score = this.range[0] + Math.max(0, Math.min(box.width, clientX - box.left)) * pixel;
    this.onchange(shortestBetween(score - pixel / 2, score + pixel / 2));
  }

  step(event) {
    const step = (this.range[1] - this.range[0]) / HANDLE_STEPS;
    const moves = {
      ArrowLeft: -1,
      ArrowDown: -1,
      ArrowRight: 1,
      ArrowUp: 1,
      PageDown: -10,
      PageUp: 10,
      Home: -Infinity,
      End: Infinity,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const to = this.state.threshold + moves[event.key] * (event.shiftKey ? 10 : 1) * step;
    this.onchange(Number.isFinite(to) ? shortestBetween(to - step / 8, to + step / 8) : to);
  }

  setLog(isLog) {
    this.isLog = isLog;
    this.plot.setData(this.data());
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.home;
    if (width > 0 && (width !== this.plot.width || height !== this.plot.height)) this.plot.setSize({ width, height });
  }

  show() {
    const { threshold } = this.state;
    const place = (threshold - this.range[0]) / (this.range[1] - this.range[0]);
    this.handle.style.left = `${100 * place}%`;
    this.handle.setAttribute("aria-valuenow", threshold);
    this.handle.setAttribute("aria-valuetext", scoreText(threshold));
    this.plot.redraw(true, false); // the fills of both sides belong to the paths
  }
}
