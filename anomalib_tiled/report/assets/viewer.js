// One image, large: zoom and pan, its regions, the next and the previous one.

const MOST_ZOOM = 40;
const WHEEL_ZOOM = 1.0015;

/** Zoom and pan of a sheet in a stage: by wheel, one or two fingers, and keys. */
class Zoom {
  constructor(stage, sheet) {
    Object.assign(this, { stage, sheet, pointers: new Map(), imageWidth: 1 });
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.press(event));
    stage.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) {
      stage.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
    stage.addEventListener("dblclick", (event) =>
      this.by(this.scale > 1 ? 1 / this.scale : 3, event.clientX, event.clientY),
    );
    this.fit();
  }

  fit() {
    this.to(1, 0, 0);
  }

  to(scale, x, y) {
    Object.assign(this, { scale, x, y });
    this.sheet.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    this.stage.classList.toggle("zoomed", scale > 1);
    this.fitBoxes();
  }

  /** Keep lines of boxes thin, and their text as large as other text: it is written in pixels of the image. */
  fitBoxes() {
    this.sheet.style.setProperty("--zoom", this.scale);
    this.sheet.style.setProperty("--pixel", this.imageWidth / (this.scale * (this.sheet.offsetWidth || 1)));
  }

  /** Zoom by a factor; the point of the picture at these coordinates of the window stays where it is. */
  by(factor, clientX = null, clientY = null) {
    const scale = Math.max(1, Math.min(MOST_ZOOM, this.scale * factor));
    if (scale === 1) {
      this.fit();
      return;
    }
    const box = this.stage.getBoundingClientRect();
    const fromMiddle = [
      clientX === null ? 0 : clientX - box.left - box.width / 2,
      clientY === null ? 0 : clientY - box.top - box.height / 2,
    ];
    const ratio = scale / this.scale;
    this.to(scale, fromMiddle[0] - ratio * (fromMiddle[0] - this.x), fromMiddle[1] - ratio * (fromMiddle[1] - this.y));
  }

  wheel(event) {
    event.preventDefault();
    this.by(WHEEL_ZOOM ** -event.deltaY, event.clientX, event.clientY);
  }

  press(event) {
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
  }

  drag(event) {
    const before = this.pointers.get(event.pointerId);
    if (before === undefined) return;
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (others.length > 0) {
      const distance = (place) => Math.hypot(place[0] - others[0][0], place[1] - others[0][1]);
      const middle = [(event.clientX + others[0][0]) / 2, (event.clientY + others[0][1]) / 2];
      this.by(distance([event.clientX, event.clientY]) / Math.max(1, distance(before)), ...middle);
    } else if (this.scale > 1) {
      this.to(this.scale, this.x + event.clientX - before[0], this.y + event.clientY - before[1]);
    }
  }

  /** Bring a box of the picture to the middle; its sides are fractions of the picture. */
  look(left, top, width, height) {
    const [wide, high] = [this.sheet.offsetWidth, this.sheet.offsetHeight];
    const scale = Math.max(1, Math.min(12, 0.4 / Math.max(width, height, 0.001)));
    this.to(scale, scale * wide * (0.5 - left - width / 2), scale * high * (0.5 - top - height / 2));
  }
}

class Viewer {
  constructor(content, state, layers) {
    Object.assign(this, { content, state, layers, images: [], at: 0, dialog: byId("viewer") });
    this.zoom = new Zoom(byId("stage"), byId("sheet"));
    this.canvas = el("canvas", { role: "img" });
    new ResizeObserver(() => this.fitSheet()).observe(byId("stage"));
    this.listen();
  }

  listen() {
    byId("viewer-close").addEventListener("click", () => this.dialog.close());
    byId("viewer-next").addEventListener("click", () => this.turn(1));
    byId("viewer-previous").addEventListener("click", () => this.turn(-1));
    byId("zoom-in").addEventListener("click", () => this.zoom.by(1.5));
    byId("zoom-out").addEventListener("click", () => this.zoom.by(1 / 1.5));
    byId("zoom-fit").addEventListener("click", () => this.zoom.fit());
    this.dialog.addEventListener("keydown", (event) => this.key(event));
    this.dialog.addEventListener("close", () => wipe(this.canvas));
  }

  key(event) {
    const keys = {
      ArrowRight: () => this.turn(1),
      ArrowLeft: () => this.turn(-1),
      "+": () => this.zoom.by(1.5),
      "=": () => this.zoom.by(1.5),
      "-": () => this.zoom.by(1 / 1.5),
      0: () => this.zoom.fit(),
    };
    if (!Object.hasOwn(keys, event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  open(images, at) {
    Object.assign(this, { images, at });
    if (!this.dialog.open) this.dialog.showModal();
    this.show();
  }

  turn(step) {
    this.at = Math.max(0, Math.min(this.images.length - 1, this.at + step));
    this.show();
  }

  get image() {
    return this.images[this.at];
  }

  show() {
    const { image } = this;
    byId("viewer-name").replaceChildren(el("bdi", {}, image.name));
    byId("viewer-place").textContent = `${this.at + 1} of ${this.images.length}`;
    byId("viewer-previous").disabled = this.at === 0;
    byId("viewer-next").disabled = this.at === this.images.length - 1;
    this.canvas.setAttribute("aria-label", `Picture of ${image.name}`);
    byId("sheet").replaceChildren(
      ...(hasPicture(image) ? [this.canvas, boxesOf(image)] : [el("p", { class: "quiet" }, "no picture")]),
    );
    this.fitSheet();
    this.zoom.fit();
    this.paint();
    byId("viewer-facts").replaceChildren(...this.facts());
  }

  paint() {
    if (this.dialog.open && hasPicture(this.image)) paint(this.canvas, this.image, this.layers, this.content.colours);
  }

  /** Give the sheet the largest size with the proportions of the image that the stage holds. */
  fitSheet() {
    if (!this.dialog.open) return;
    const { image } = this;
    const [sheet, stage] = [byId("sheet"), byId("stage")];
    const scale = Math.min(stage.clientWidth / image.width, stage.clientHeight / image.height);
    sheet.style.width = `${image.width * scale}px`;
    sheet.style.height = `${image.height * scale}px`;
    this.zoom.imageWidth = image.width;
    this.zoom.fitBoxes();
  }

  facts() {
    const { image, state } = this;
    const uncertain = isUncertain(image, state.band) ? el("span", { class: "badge uncertain" }, "Uncertain") : null;
    const rows = [
      ["Score", image.score === null ? "none" : `${scoreText(image.score)} (threshold ${scoreText(state.threshold)})`],
      ["Labelled", { [NORMAL]: "normal", [ANOMALOUS]: "anomalous", [UNKNOWN]: "no" }[truthOf(image)]],
      image.unaligned ? ["Part not found", image.unaligned] : null,
      image.folder ? ["Folder", image.folder] : null,
      ["Size", `${image.width} × ${image.height} pixels`],
      ["Path", image.path],
    ];
    return [
      el("p", { class: "marks" }, badge(image, state), uncertain ?? ""),
      pairs(rows.filter((row) => row !== null)),
      this.link(),
      this.regions(),
      this.scores("Named regions", image.named_regions),
      this.scores("Highest tiles", image.tiles),
    ].filter((node) => node !== null);
  }

  link() {
    const { link } = this.image;
    if (link === null) return el("p", { class: "quiet" }, "The original is gone from this path.");
    return el(
      "p",
      {},
      el("a", { href: link, target: "_blank", rel: "noopener noreferrer", id: "original" }, "Open the original"),
    );
  }

  regions() {
    const { regions } = this.image;
    if (regions.length === 0)
      return this.content.scale.pixel_threshold === null ? null : el("p", { class: "quiet" }, "No anomalous regions.");
    const rows = regions.map((region, number) => this.regionRow(region, number));
    const head = ["Region", "Area (px)", "Peak", "At"].map((word) => el("th", { scope: "col" }, word));
    const table = el(
      "table",
      { class: "numbers regions" },
      el("thead", {}, el("tr", {}, ...head)),
      el("tbody", {}, ...rows),
    );
    const { pixel_threshold: threshold } = this.content.scale;
    const note =
      threshold === null ? "" : `Regions and mask at the run's threshold for pixels, ${scoreText(threshold)}.`;
    return el("div", {}, table, el("p", { class: "quiet" }, note));
  }

  regionRow(region, number) {
    const { width, height } = this.image;
    const look = () =>
      this.zoom.look(region.left / width, region.top / height, region.width / width, region.height / height);
    const mark = (isOn) => byId("sheet").querySelector(`[data-region="${number}"]`)?.classList.toggle("marked", isOn);
    const on = {
      onmouseenter: () => mark(true),
      onmouseleave: () => mark(false),
      onfocusin: () => mark(true),
      onfocusout: () => mark(false),
    };
    return el(
      "tr",
      on,
      el(
        "td",
        {},
        el(
          "button",
          { type: "button", class: "plain", onclick: look, "aria-label": `Zoom to region ${number + 1}` },
          String(number + 1),
        ),
      ),
      el("td", {}, region.area.toLocaleString("en")),
      el("td", {}, scoreText(region.peak)),
      el("td", {}, `${region.left}, ${region.top}`),
    );
  }

  scores(heading, scores) {
    const highest = Object.entries(scores)
      .sort((a, b) => b[1] - a[1])
      .slice(0, 5);
    if (highest.length === 0) return null;
    return el("div", {}, el("h3", {}, heading), pairs(highest.map(([name, score]) => [name, scoreText(score)])));
  }
}

function pairs(rows) {
  return el(
    "table",
    { class: "pairs" },
    el(
      "tbody",
      {},
      ...rows.map(([name, value]) =>
        el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, el("bdi", {}, value))),
      ),
    ),
  );
}
