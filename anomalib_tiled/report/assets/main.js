// Starts the page: one state, and what follows when the threshold or the layers change.

/** Show one tab; arrow keys move between them. */
function startTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const show = (chosen) => {
    for (const tab of tabs) {
      const isChosen = tab === chosen;
      tab.setAttribute("aria-selected", String(isChosen));
      tab.setAttribute("tabindex", isChosen ? "0" : "-1");
      byId(tab.getAttribute("aria-controls")).hidden = !isChosen;
    }
  };
  byId("to-notes")?.addEventListener("click", () => show(byId("tab-run")));
  tabs.forEach((tab, at) => {
    tab.addEventListener("click", () => show(tab));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = tabs[(to + tabs.length) % tabs.length];
      show(next);
      next.focus();
    });
  });
}

/** Keep all boxes of a layer equal, and call back when one changes. */
function startLayers(images, onchange) {
  const layers = {};
  const has = { heat: "heat_map", mask: "mask", truth: "truth_mask" };
  const boxes = [...document.querySelectorAll("[data-layer]")];
  const follow = () => document.body.classList.toggle("with-boxes", layers.boxes);
  for (const box of boxes) {
    const { layer } = box.dataset;
    layers[layer] = box.checked;
    box.parentElement.hidden = !images.some((image) =>
      layer === "boxes" ? image.regions.length > 0 : image[has[layer]] !== null,
    );
    box.addEventListener("change", () => {
      layers[layer] = box.checked;
      for (const other of boxes) if (other.dataset.layer === layer) other.checked = box.checked;
      follow();
      onchange();
    });
  }
  follow();
  return layers;
}

function startPage() {
  const content = JSON.parse(byId("content").textContent);
  const { images, scale } = content;
  for (const image of images) if (image.score !== null) image.score = Math.fround(image.score);
  content.colours = packed(content.colours);
  const range = rangeOf(images, scale);
  const state = { threshold: scale.threshold, place: null };
  const decide = () => {
    state.band = bandAt(scale, state.threshold);
    state.counts = countOutcomes(images, state.threshold, state.band);
  };
  decide();
  const views = [];
  const showAll = oncePerFrame(() => views.forEach((view) => view.show()));
  state.setThreshold = (threshold) => {
    state.threshold = Math.max(range[0], Math.min(range[1], threshold));
    decide();
    showAll();
  };
  startTabs();
  const layers = startLayers(images, () => {
    painter.repaint();
    viewer.paint();
  });
  const painter = new Painter(layers, content.colours);
  const viewer = new Viewer(content, state, layers);
  const open = (shown, at) => viewer.open(shown, at);
  const histogram = new Histogram(byId("histogram"), images, range, state, (threshold) =>
    state.setThreshold(threshold),
  );
  byId("log-counts").checked = histogram.most > 20;
  histogram.setLog(byId("log-counts").checked);
  byId("log-counts").addEventListener("change", (event) => histogram.setLog(event.target.checked));
  const gallery = new Gallery(content, state, painter, open);
  const panel = new ThresholdPanel(content, state, range, (outcome) => {
    gallery.setOutcome(outcome);
    byId("gallery").scrollIntoView({ block: "nearest" });
  });
  const part = new PartMap(content, state, painter, open);
  views.push(histogram, panel, gallery, { show: () => part.follow() });
  if (content.drift !== null) new DriftTab(content.drift);
}

startPage();
