// The part: its grid over the mean normal image, the weak places, and the images of a place.

const HIGHEST_THERE = 12;
const LABEL_SIZE = 15;
const SMALLEST_LABEL = 8;

/** What tiles are coloured by: the value, how it is written, and whether high values are weak ones. */
const MEASURES = {
  auroc: {
    word: "AUROC",
    value: (tile) => tile.auroc,
    text: (value) => value.toFixed(3),
    isHighWeak: false,
    bounds: [0.5, 1],
  },
  false_alarms: {
    word: "false alarms",
    value: (tile) => tile.false_alarms,
    text: String,
    isHighWeak: true,
    bounds: [0, null],
  },
  missed: { word: "missed", value: (tile) => tile.missed, text: String, isHighWeak: true, bounds: [0, null] },
  normal_mean: {
    word: "mean normal score",
    value: (tile) => tile.normal_mean,
    text: scoreText,
    isHighWeak: true,
    bounds: [null, null],
  },
  drifted: {
    word: "drift",
    value: (tile) => Number(tile.drifted !== ""),
    text: (value) => (value ? "moved" : "steady"),
    isHighWeak: true,
    bounds: [0, 1],
  },
};

/** Whether an image has an anomalous region at a place; without regions, whether its highest score is there. */
function isAt(image, place, content) {
  if (place.kind === "region") return highestOf(image.named_regions) === place.name;
  const tile = content.part.tiles.find((each) => each.name === place.name);
  return (
    image.regions.some((region) => overlaps(image, region, tile, content.part)) ||
    (image.regions.length === 0 && highestOf(image.tiles) === place.name)
  );
}

function highestOf(scores) {
  return Object.keys(scores).reduce((best, name) => (best === null || scores[name] > scores[best] ? name : best), null);
}

/** Whether a region, in pixels of the file, overlaps a tile, in pixels of the grid's image. */
function overlaps(image, region, tile, part) {
  const [x, y] = [part.width / image.width, part.height / image.height];
  return (
    region.left * x < tile.left + tile.width &&
    (region.left + region.width) * x > tile.left &&
    region.top * y < tile.top + tile.height &&
    (region.top + region.height) * y > tile.top
  );
}

/** The middle between a tile's end and its neighbour's start, so that cells of overlapping tiles do not overlap. */
function cellsAlong(starts, length, end) {
  const sorted = [...new Set(starts)].sort((a, b) => a - b);
  const edges = sorted.map((begin, at) => (at === 0 ? begin : (begin + sorted[at - 1] + length) / 2));
  return new Map(sorted.map((begin, at) => [begin, { start: edges[at], end: edges[at + 1] ?? end, number: at }]));
}

class PartMap {
  constructor(content, state, painter, onopen) {
    Object.assign(this, { content, part: content.part, state, painter, onopen, chosen: null, cards: [] });
    this.measures = Object.keys(MEASURES).filter((key) => this.hasValues(key));
    byId("measure").append(...this.measures.map((key) => option(key, MEASURES[key].word)));
    byId("measure").addEventListener("change", () => this.show());
    byId("measure").parentElement.hidden = this.measures.length === 0;
    this.cells = new Map();
    this.draw();
    this.show();
    new ResizeObserver(() => this.fitLabels()).observe(byId("grid"));
  }

  /** Write labels as large as other text, or smaller where cells are small; not at all where nobody could read them. */
  fitLabels() {
    const pixel = this.part.width / (byId("grid").firstChild.clientWidth || 1);
    for (const { box, label } of this.cells.values()) {
      const size = Math.min(
        LABEL_SIZE * pixel,
        box.height / 2,
        box.width / (0.7 * Math.max(4, label.textContent.length)),
      );
      label.setAttribute("font-size", size);
      label.classList.toggle("too-small", size < SMALLEST_LABEL * pixel);
    }
  }

  hasValues(key) {
    if (key === "drifted") return this.content.drift !== null;
    return this.part.tiles.some((tile) => MEASURES[key].value(tile) !== null);
  }

  draw() {
    const { part } = this;
    const frame = svg("svg", {
      viewBox: `0 0 ${part.width} ${part.height}`,
      role: "group",
      "aria-label": "Grid of places; arrow keys move, Enter chooses",
    });
    if (part.picture !== null)
      frame.append(
        svg("image", { href: part.picture, width: part.width, height: part.height, preserveAspectRatio: "none" }),
      );
    const [{ height, width }] = part.tiles.length ? part.tiles : [{ height: part.height, width: part.width }];
    const columns = cellsAlong(
      part.tiles.map((tile) => tile.left),
      width,
      part.width,
    );
    const rows = cellsAlong(
      part.tiles.map((tile) => tile.top),
      height,
      part.height,
    );
    for (const tile of part.tiles) frame.append(this.cell(tile, rows.get(tile.top), columns.get(tile.left)));
    this.outline = svg("rect", { class: "chosen", width: 0, height: 0 });
    frame.append(this.outline);
    byId("grid").replaceChildren(frame);
    [...this.cells.values()]
      .sort((a, b) => a.row - b.row || a.column - b.column)[0]
      ?.node.setAttribute("tabindex", "0");
  }

  cell(tile, rows, columns) {
    const box = { x: columns.start, y: rows.start, width: columns.end - columns.start, height: rows.end - rows.start };
    const fill = svg("rect", { ...box, class: "fill" });
    const label = svg("text", { x: box.x + box.width / 2, y: box.y + box.height / 2, class: "value" });
    const title = svg("title");
    const node = svg(
      "g",
      {
        class: `cell${tile.left_out ? " left-out" : ""}`,
        role: "button",
        tabindex: "-1",
        "data-tile": tile.name,
        onclick: () => this.choose(tile),
        onkeydown: (event) => this.key(event, tile),
      },
      title,
      fill,
      svg("rect", { ...box, class: "edge" }),
      label,
    );
    this.cells.set(tile.name, { tile, node, box, fill, label, title, row: rows.number, column: columns.number });
    return node;
  }

  key(event, tile) {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.choose(tile);
    }
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const from = this.cells.get(tile.name);
    const to = [...this.cells.values()].find(
      (cell) => cell.row === from.row + step[0] && cell.column === from.column + step[1],
    );
    if (to === undefined) return;
    from.node.setAttribute("tabindex", "-1");
    to.node.setAttribute("tabindex", "0");
    to.node.focus();
  }

  bounds(measure) {
    const values = this.part.tiles.map(measure.value).filter((value) => value !== null);
    const [low, high] = measure.bounds;
    return [low ?? Math.min(...values), high ?? Math.max(...values, 1e-9)];
  }

  /** How weak a tile is, from 0 to 1; null if unknown. */
  weakness(tile, measure, [low, high]) {
    const value = tile.left_out ? null : measure.value(tile);
    if (value === null) return null;
    const place = Math.max(0, Math.min(1, (value - low) / (high - low || 1)));
    return measure.isHighWeak ? place : 1 - place;
  }

  show() {
    const measure = MEASURES[byId("measure").value];
    const hasMeasure = measure !== undefined;
    const bounds = hasMeasure ? this.bounds(measure) : [0, 1];
    const weakness = new Map(
      this.part.tiles.map((tile) => [tile, hasMeasure ? this.weakness(tile, measure, bounds) : null]),
    );
    for (const cell of this.cells.values()) this.showCell(cell, measure, weakness.get(cell.tile));
    this.fitLabels();
    this.showRamp(measure, bounds);
    this.showWeak(measure, weakness);
  }

  valueText(tile, measure) {
    if (tile.left_out) return "no model";
    const value = measure === undefined ? null : measure.value(tile);
    return value === null ? "–" : measure.text(value);
  }

  showCell({ tile, node, fill, label, title }, measure, weakness) {
    const value = `${tile.name}: ${measure?.word ?? ""} ${this.valueText(tile, measure)}`;
    const words = tile.drifted ? `${value}. ${tile.drifted}` : value;
    fill.style.fillOpacity = weakness === null ? 0 : 0.8 * weakness;
    label.textContent = this.valueText(tile, measure);
    title.textContent = words;
    node.setAttribute("aria-label", words);
    node.classList.toggle("moved", tile.drifted !== "");
  }

  showRamp(measure, bounds) {
    document.querySelector(".ramp-line").hidden = measure === undefined;
    if (measure === undefined) return;
    const ends = measure.isHighWeak ? bounds : [...bounds].reverse();
    byId("ramp-low").textContent = measure.text(ends[0]);
    byId("ramp-high").textContent = measure.text(ends[1]);
    byId("grid-note").textContent = this.part.picture === null ? "" : "Behind the grid: the mean of normal images.";
  }

  showWeak(measure, weakness) {
    const tiles = this.part.tiles.filter((tile) => !tile.left_out);
    const order = new Map(tiles.map((tile, at) => [tile, at]));
    tiles.sort((a, b) => (weakness.get(b) ?? -1) - (weakness.get(a) ?? -1) || order.get(a) - order.get(b));
    byId("weak").replaceChildren(
      ...tiles.map((tile) => {
        const bar = el("span", { class: "amount", "aria-hidden": "true" });
        bar.style.setProperty("--amount", weakness.get(tile) ?? 0);
        const button = el(
          "button",
          {
            type: "button",
            "data-weak": tile.name,
            "aria-pressed": String(this.chosen === tile),
            onclick: () => this.choose(tile),
          },
          el("span", {}, tile.name),
          bar,
          el("span", { class: "number" }, this.valueText(tile, measure)),
          el("span", { class: "quiet detail" }, this.detail(tile)),
        );
        return el("li", {}, button);
      }),
    );
  }

  detail(tile) {
    const words = [];
    if (tile.missed !== null) words.push(`missed in ${tile.missed} of ${tile.anomalous ?? "?"} tiles with a defect`);
    if (tile.false_alarms !== null) words.push(countText(tile.false_alarms, "normal tile with an alarm", "normal tiles with an alarm"));
    if (tile.drifted) words.push(tile.drifted);
    return words.join(", ");
  }

  choose(tile) {
    this.chosen = tile;
    for (const [name, value] of Object.entries({ x: tile.left, y: tile.top, width: tile.width, height: tile.height }))
      this.outline.setAttribute(name, value);
    for (const button of byId("weak").querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(button.dataset.weak === tile.name));
    this.showImages();
    byId("there-heading").scrollIntoView({
      block: "nearest",
      behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth",
    });
  }

  /** List the images with a region or a defect there; where defects lie is known once their masks are decoded. */
  async showImages() {
    const { part, chosen: tile } = this;
    this.list(tile, new Set());
    const box = {
      left: tile.left / part.width,
      top: tile.top / part.height,
      width: tile.width / part.width,
      height: tile.height / part.height,
    };
    const anomalous = this.content.images.filter((image) => image.truth_mask !== null);
    const isThere = await Promise.all(anomalous.map((image) => isWhiteWithin(image.truth_mask, box)));
    if (this.chosen === tile && isThere.includes(true))
      this.list(tile, new Set(anomalous.filter((_, at) => isThere[at])));
  }

  /** List images, those with a missed defect first; without any region or defect, those with the highest scores. */
  list(tile, defective) {
    const { images } = this.content;
    const place = { kind: "tile", name: tile.name };
    const score = (image) => scoreAt(image, place) ?? -Infinity;
    const marked = new Set(
      images.filter((image) => image.regions.some((region) => overlaps(image, region, tile, this.part))),
    );
    const isMissed = (image) => defective.has(image) && !marked.has(image);
    const within = images.filter((image) => marked.has(image) || defective.has(image));
    const scored = images.filter((image) => scoreAt(image, place) !== null);
    const sorted = (within.length ? within : scored).sort((a, b) => isMissed(b) - isMissed(a) || score(b) - score(a));
    const listed = within.length ? sorted : sorted.slice(0, HIGHEST_THERE);
    byId("there-heading").textContent = `${countText(listed.length, "image", "images")} at ${tile.name}`;
    byId("there-note").textContent = noteOn(within.length, within.filter(isMissed).length);
    const remark = (image) => (isMissed(image) ? "a defect without a region here" : "");
    this.cards = listed.map((image, at) => new Card(image, this.painter, () => this.onopen(listed, at), remark(image)));
    this.follow();
    byId("there").replaceChildren(...this.cards.map((card) => card.node));
  }

  /** Show the decisions of the threshold on the images of the chosen place. */
  follow() {
    this.cards.forEach((card) => card.show({ ...this.state, place: { kind: "tile", name: this.chosen.name } }));
  }
}

function noteOn(within, missed) {
  if (within === 0) return "None has an anomalous region there; these have the highest scores of the tile.";
  const others = `${countText(within - missed, "image", "images")} with an anomalous region there`;
  return missed
    ? `${countText(missed, "image", "images")} with a defect there that no region shows; ${others}.`
    : `${others}, highest first.`;
}
