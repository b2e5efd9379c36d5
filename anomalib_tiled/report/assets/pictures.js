// Pictures on a canvas: the image, and on it the heat map, the predicted mask and the ground truth.

const MASK_COLOUR = [255, 255, 255];
const TRUTH_COLOUR = [86, 180, 233];
const latestPainting = new WeakMap();

/** Give red, green, blue and opacity as one number each, as canvases hold them: faster by far than four numbers. */
function packed(colours) {
  return new Uint32Array(new Uint8ClampedArray(colours.flat()).buffer);
}

async function decoded(address) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  return picture;
}

/** Give the pixels of a picture, drawn at some size. */
function pixelsOf(picture, width, height) {
  const canvas = el("canvas", { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, width, height);
  return { canvas, context, pixels: context.getImageData(0, 0, width, height) };
}

/** Draw grey values in the colours of heat maps, which are transparent where scores are low. */
function drawHeat(target, picture, colours) {
  const { width, height } = target.canvas;
  const { canvas, context, pixels } = pixelsOf(picture, width, height);
  const words = new Uint32Array(pixels.data.buffer);
  for (let at = 0; at < words.length; at += 1) words[at] = colours[pixels.data[4 * at]];
  context.putImageData(pixels, 0, 0);
  target.drawImage(canvas, 0, 0);
}

/** Draw a mask: its edge as a line, which leaves the pixels within to be seen. */
function drawMask(target, picture, rgb) {
  const { width, height } = target.canvas;
  const { canvas, context, pixels } = pixelsOf(picture, width, height);
  const isIn = new Uint8Array(width * height);
  for (let at = 0; at < isIn.length; at += 1) isIn[at] = pixels.data[4 * at] > 127 ? 1 : 0;
  const reach = Math.max(1, Math.round(Math.max(width, height) / 400));
  const [edge, within] = packed([
    [...rgb, 255],
    [...rgb, 40],
  ]);
  const words = new Uint32Array(pixels.data.buffer);
  for (let at = 0; at < isIn.length; at += 1) {
    if (!isIn[at]) words[at] = 0;
    else words[at] = isAtEdge(isIn, at, width, height, reach) ? edge : within;
  }
  context.putImageData(pixels, 0, 0);
  target.save();
  target.shadowColor = "rgba(0, 0, 0, 0.9)";
  target.shadowBlur = 2;
  target.drawImage(canvas, 0, 0);
  target.restore();
}

function isAtEdge(isIn, at, width, height, reach) {
  const column = at % width;
  const row = (at - column) / width;
  if (column < reach || row < reach || column >= width - reach || row >= height - reach) return true;
  return !(isIn[at - reach] && isIn[at + reach] && isIn[at - reach * width] && isIn[at + reach * width]);
}

/** Paint an image with its layers; a painting that has been overtaken by a later one is dropped. */
async function paint(canvas, image, layers, colours) {
  const token = {};
  latestPainting.set(canvas, token);
  const wanted = [
    image.picture,
    layers.heat ? image.heat_map : null,
    layers.mask ? image.mask : null,
    layers.truth ? image.truth_mask : null,
  ];
  const [picture, heat, mask, truth] = await Promise.all(
    wanted.map((address) => (address === null ? null : decoded(address))),
  );
  const first = picture ?? heat ?? mask ?? truth;
  if (latestPainting.get(canvas) !== token || first === null) return;
  canvas.width = first.naturalWidth;
  canvas.height = first.naturalHeight;
  const context = canvas.getContext("2d");
  if (picture) context.drawImage(picture, 0, 0);
  if (heat) drawHeat(context, heat, colours);
  if (truth) drawMask(context, truth, TRUTH_COLOUR);
  if (mask) drawMask(context, mask, MASK_COLOUR);
}

/** Whether a mask is white anywhere in a part of it, whose sides are fractions of the whole. */
async function isWhiteWithin(address, { left, top, width, height }) {
  const picture = await decoded(address);
  const [x, y] = [Math.floor(left * picture.naturalWidth), Math.floor(top * picture.naturalHeight)];
  const size = [
    Math.ceil((left + width) * picture.naturalWidth) - x,
    Math.ceil((top + height) * picture.naturalHeight) - y,
  ];
  const context = el("canvas", { width: size[0], height: size[1] }).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, x, y, ...size, 0, 0, ...size);
  return context.getImageData(0, 0, ...size).data.some((value, at) => at % 4 === 0 && value > 127);
}

/** Free the pixels of a painting that is out of sight. */
function wipe(canvas) {
  latestPainting.delete(canvas);
  canvas.width = 1;
  canvas.height = 1;
}

function hasPicture(image) {
  return [image.picture, image.heat_map, image.mask, image.truth_mask].some((address) => address !== null);
}

/** Draw the boxes of regions in pixels of the file; a margin keeps the lines of small ones off what they surround. */
function boxesOf(image, margin = 0) {
  const frame = svg("svg", { class: "boxes", viewBox: `0 0 ${image.width} ${image.height}`, "aria-hidden": "true" });
  image.regions.forEach((region, number) => {
    const place = {
      x: region.left - margin,
      y: region.top - margin,
      width: region.width + 2 * margin,
      height: region.height + 2 * margin,
    };
    const isHigh = region.top < image.height / 20; // text above the box would lie outside
    const text = {
      x: region.left,
      y: isHigh ? region.top + region.height : region.top,
      dy: isHigh ? "1.2em" : "-0.4em",
    };
    frame.append(
      svg(
        "g",
        { "data-region": number },
        svg("rect", { ...place, class: "halo" }),
        svg("rect", { ...place, class: "box" }),
        svg(
          "text",
          text,
          String(number + 1),
          svg("tspan", { class: "detail" }, ` · ${region.area.toLocaleString("en")} px · ${scoreText(region.peak)}`),
        ),
      ),
    );
  });
  return frame;
}
