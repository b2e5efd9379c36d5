// The gallery: which images, in which order, and cards that paint their pictures when they come into sight.

/** Between a box and its region, as a fraction of the longer side of the image. */
const CARD_MARGIN = 0.015;

const SORTS = {
  worst: { word: "worst first", key: (image, state) => -wrongness(image, state.threshold) },
  high: { word: "highest score first", key: (image) => -(image.score ?? Infinity) },
  low: { word: "lowest score first", key: (image) => image.score ?? Infinity },
  close: { word: "closest to the threshold", key: (image, state) => Math.abs(wrongness(image, state.threshold)) },
  place: { word: "highest at the place", key: (image, state) => -(scoreAt(image, state.place) ?? -Infinity) },
  name: { word: "name", key: null },
};

/** The score of an image at a place: a tile, or a named region. */
function scoreAt(image, place) {
  if (place === null) return null;
  const scores = place.kind === "tile" ? image.tiles : image.named_regions;
  return Object.hasOwn(scores, place.name) ? scores[place.name] : null;
}

/** Paints canvases that are in sight, and frees the others: hundreds of pictures stay smooth. */
class Painter {
  constructor(layers, colours) {
    Object.assign(this, { layers, colours, inSight: new Set(), images: new WeakMap() });
    this.observer = new IntersectionObserver((entries) => this.follow(entries), { rootMargin: "400px" });
  }

  watch(canvas, image) {
    this.images.set(canvas, image);
    this.observer.observe(canvas);
  }

  follow(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) {
        this.inSight.add(target);
        this.paint(target);
      } else if (this.inSight.delete(target)) wipe(target);
    }
  }

  paint(canvas) {
    paint(canvas, this.images.get(canvas), this.layers, this.colours);
  }

  repaint() {
    this.inSight.forEach((canvas) => this.paint(canvas));
  }
}

function badge(image, state) {
  const outcome = outcomeOf(image, state.threshold);
  return el("span", { class: `badge ${outcome}` }, OUTCOMES[outcome].word);
}

/** A card of the gallery: one button that opens the image. */
class Card {
  constructor(image, painter, onopen, remark = "") {
    Object.assign(this, { image, remark });
    this.marks = el("span", { class: "marks" });
    this.detail = el("span", { class: "quiet" });
    const name = el("bdi", { class: "name", title: image.name }, image.name);
    this.node = el(
      "li",
      {},
      el(
        "button",
        { type: "button", class: "tile-card", onclick: onopen },
        this.picture(painter),
        this.marks,
        name,
        this.detail,
      ),
    );
  }

  picture(painter) {
    if (!hasPicture(this.image)) return el("span", { class: "frame blank" }, "no picture");
    const canvas = el("canvas", { width: 1, height: 1 });
    painter.watch(canvas, this.image);
    const margin = CARD_MARGIN * Math.max(this.image.width, this.image.height);
    const sheet = el("span", { class: "fitted" }, canvas, boxesOf(this.image, margin));
    sheet.style.aspectRatio = `${this.image.width} / ${this.image.height}`;
    sheet.style.setProperty("--ratio", this.image.width / this.image.height);
    return el("span", { class: "frame" }, sheet);
  }

  show(state) {
    const { image } = this;
    const decision = [
      outcomeOf(image, state.threshold),
      isUncertain(image, state.band),
      state.place?.kind,
      state.place?.name,
    ].join();
    if (decision === this.decision) return; // hundreds of cards follow the threshold, and few of them change
    this.decision = decision;
    const uncertain = isUncertain(image, state.band) ? el("span", { class: "badge uncertain" }, "Uncertain") : null;
    const score = el("span", { class: "score" }, image.score === null ? "no part found" : scoreText(image.score));
    this.marks.replaceChildren(...[score, badge(image, state), uncertain].filter((node) => node !== null));
    const there = scoreAt(image, state.place);
    const words = [image.folder, image.regions.length ? countText(image.regions.length, "region", "regions") : ""];
    if (there !== null) words.push(`${scoreText(there)} at ${state.place.name}`);
    this.detail.textContent = [...words, this.remark].filter(Boolean).join(" · ");
  }
}

class Gallery {
  /**
   * @param {object} content - Content of the page.
   * @param {object} state - Holds `threshold`, `band`, `counts` and `place`.
   * @param {Painter} painter - Paints the pictures.
   * @param {function(object[], number): void} onopen - Called with the images shown and the place of the one to open.
   */
  constructor(content, state, painter, onopen) {
    Object.assign(this, { content, state, outcome: "all", shown: [] });
    const open = (image) => onopen(this.shown, this.shown.indexOf(image));
    this.cards = new Map(content.images.map((image) => [image, new Card(image, painter, () => open(image))]));
    this.fitFrames();
    this.fillSelects();
    this.listen();
    this.show();
  }

  /** Give the frames of the cards the proportions of the images, unless these are very long ones. */
  fitFrames() {
    const ratios = this.content.images.map((image) => image.width / image.height).sort((a, b) => a - b);
    const middle = ratios[Math.floor(ratios.length / 2)] ?? 4 / 3;
    document.body.style.setProperty("--frame", Math.max(0.8, Math.min(2.2, middle)));
  }

  fillSelects() {
    const { images, part } = this.content;
    const folders = [...new Set(images.map((image) => image.folder))].sort();
    byId("folder").append(option("", "all"), ...folders.map((folder, at) => option(String(at), folder || "(none)")));
    byId("folder-label").hidden = folders.length < 2;
    this.folders = folders;
    const regions = [...new Set(images.flatMap((image) => Object.keys(image.named_regions)))].sort();
    const tiles = part.tiles.filter((tile) => !tile.left_out).map((tile) => tile.name);
    this.places = [
      ...regions.map((name) => ({ kind: "region", name })),
      ...tiles.map((name) => ({ kind: "tile", name })),
    ];
    byId("place").append(option("", "all"), ...this.places.map((place, at) => option(String(at), place.name)));
    byId("place-label").hidden = this.places.length < 2;
    this.fillSorts();
  }

  fillSorts() {
    const before = byId("sort").value || "worst";
    const keys = Object.keys(SORTS).filter((key) => key !== "place" || this.state.place !== null);
    byId("sort").replaceChildren(...keys.map((key) => option(key, SORTS[key].word)));
    byId("sort").value = keys.includes(before) ? before : "worst";
  }

  listen() {
    for (const id of ["sort", "folder"]) byId(id).addEventListener("change", () => this.show());
    for (const id of ["score-from", "score-to", "search"])
      byId(id).addEventListener(
        "input",
        oncePerFrame(() => this.show()),
      );
    byId("place").addEventListener("change", (event) => this.setPlace(this.places[event.target.value] ?? null));
  }

  setPlace(place) {
    this.state.place = place;
    this.fillSorts();
    if (place !== null) byId("sort").value = "place";
    byId("place").value =
      place === null
        ? ""
        : String(this.places.findIndex((each) => each.name === place.name && each.kind === place.kind));
    this.show();
  }

  setOutcome(outcome) {
    this.outcome = outcome;
    this.show();
  }

  matches(image) {
    const { state } = this;
    const folder = byId("folder").value;
    const [from, to] = [byId("score-from").valueAsNumber, byId("score-to").valueAsNumber];
    const score = image.score ?? Infinity;
    return (
      this.isOf(image, this.outcome) &&
      (folder === "" || image.folder === this.folders[folder]) &&
      (state.place === null || isAt(image, state.place, this.content)) &&
      !(score < from) &&
      !(score > to) &&
      image.name.toLowerCase().includes(byId("search").value.trim().toLowerCase())
    );
  }

  isOf(image, outcome) {
    if (outcome === "all") return true;
    if (outcome === "uncertain") return isUncertain(image, this.state.band);
    return outcomeOf(image, this.state.threshold) === outcome;
  }

  sorted(images) {
    const { key } = SORTS[byId("sort").value];
    const byName = (a, b) => (a.name < b.name ? -1 : Number(a.name > b.name));
    if (key === null) return images.sort(byName);
    const keys = new Map(images.map((image) => [image, key(image, this.state)]));
    return images.sort((a, b) => (keys.get(a) < keys.get(b) ? -1 : Number(keys.get(a) > keys.get(b))) || byName(a, b));
  }

  show() {
    this.showChips();
    this.shown = this.sorted(this.content.images.filter((image) => this.matches(image)));
    const nodes = this.shown.map((image) => {
      const card = this.cards.get(image);
      card.show(this.state);
      return card.node;
    });
    const home = byId("gallery");
    const isSame = home.children.length === nodes.length && nodes.every((node, at) => home.children[at] === node);
    if (!isSame) home.replaceChildren(...nodes);
    const all = this.content.images.length;
    const ofAll = this.shown.length < all ? ` of ${all.toLocaleString("en")}` : "";
    byId("found").textContent = countText(this.shown.length, "image", "images") + ofAll;
  }

  showChips() {
    const { counts, band } = this.state;
    const present = Object.keys(OUTCOMES).filter((key) =>
      this.content.images.some((image) => truthOf(image) === OUTCOMES[key].truth),
    );
    const chips = [
      ["all", "All", this.content.images.length],
      ...present.map((key) => [key, OUTCOMES[key].many, counts[key]]),
    ];
    if (band !== null) chips.push(["uncertain", "Uncertain", Object.values(counts.uncertain).reduce((a, b) => a + b)]);
    const home = byId("outcomes");
    if (home.children.length === 0) home.append(...chips.map(([key]) => this.chip(key)));
    chips.forEach(([key, word, number], at) => {
      home.children[at].replaceChildren(`${word} `, el("b", {}, number.toLocaleString("en")));
      home.children[at].setAttribute("aria-pressed", String(key === this.outcome));
    });
  }

  chip(key) {
    return el("button", { type: "button", id: `show-${key}`, onclick: () => this.setOutcome(key) });
  }
}
