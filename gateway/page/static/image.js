// An image file as the numbers of a tensor, decoded by the browser's canvas.

import { Problem } from "./tensors.js";

const CHANNELS = new Set([1, 3, 4]);
const MOST_BYTES = 64 * 1024 * 1024;
const LONGEST = 1024; // pixels, where the model takes any size
const LEAST = 8;

// Where height, width and channels are in a shape, or null if it is none of an image. In front of them only a batch of one fits.
export function imageLayout(shape) {
  const side = (size) => size === -1 || size >= LEAST;
  const single = (sizes) => sizes.every((size) => size === -1 || size === 1);
  const rank = shape.length;
  if (rank >= 3 && single(shape.slice(0, -3))) {
    const [first, second, third] = shape.slice(-3);
    if (CHANNELS.has(first) && side(second) && side(third)) {
      return { channels: first, channelAt: rank - 3, heightAt: rank - 2, widthAt: rank - 1, channelsLast: false };
    }
    if (CHANNELS.has(third) && side(first) && side(second)) {
      return { channels: third, channelAt: rank - 1, heightAt: rank - 3, widthAt: rank - 2, channelsLast: true };
    }
  }
  if (rank >= 2 && single(shape.slice(0, -2)) && shape.at(-2) >= LEAST && shape.at(-1) >= LEAST) {
    return { channels: 1, channelAt: -1, heightAt: rank - 2, widthAt: rank - 1, channelsLast: true };
  }
  const flat = Math.sqrt(shape.at(-1) ?? 0); // a square grey image, row by row
  if (Number.isInteger(flat) && flat >= LEAST && single(shape.slice(0, -1))) {
    return { channels: 1, channelAt: -1, heightAt: -1, widthAt: -1, channelsLast: true, flat };
  }
  return null;
}

// What is made of a channel's value v, 0 to 255.
export const SCALES = {
  unit: { label: "0 to 1", of: (v) => v / 255 },
  bytes: { label: "0 to 255", of: (v) => v },
  signed: { label: "−1 to 1", of: (v) => v / 127.5 - 1 },
  imagenet: {
    label: "ImageNet's mean and deviation",
    of: (v, channel) => (v / 255 - [0.485, 0.456, 0.406][channel % 3]) / [0.229, 0.224, 0.225][channel % 3],
  },
};

// The decoded image.
export async function readImage(file) {
  if (file.size > MOST_BYTES) throw new Problem("this image file has more than 64 MB");
  try {
    return await createImageBitmap(file);
  } catch {
    throw new Problem("this browser cannot read that file as an image");
  }
}

// The concrete shape for an image: sizes that are free become the image's own, within `LONGEST`.
export function shapeFor(shape, layout, image) {
  const factor = Math.min(1, LONGEST / Math.max(image.width, image.height));
  const sized = shape.map((size) => (size === -1 ? 1 : size));
  if (shape[layout.heightAt] === -1) sized[layout.heightAt] = Math.max(1, Math.round(image.height * factor));
  if (shape[layout.widthAt] === -1) sized[layout.widthAt] = Math.max(1, Math.round(image.width * factor));
  return sized;
}

// Draw the image on the canvas, stretched to the shape's sides; returns the tensor's numbers. What is transparent becomes white.
export function pixels(image, canvas, shape, layout, scale, bgr) {
  const [height, width] = layout.flat ? [layout.flat, layout.flat] : [shape[layout.heightAt], shape[layout.widthAt]];
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, width, height);
  const { data } = context.getImageData(0, 0, width, height);
  return arranged(data, width * height, layout, SCALES[scale].of, bgr);
}

// RGBA bytes as a tensor's numbers. Pure.
export function arranged(data, area, { channels, channelsLast }, of, bgr) {
  const numbers = new Float64Array(area * channels);
  for (let pixel = 0; pixel < area; pixel += 1) {
    for (let channel = 0; channel < channels; channel += 1) {
      const value = channels === 1 ? grey(data, 4 * pixel) : data[4 * pixel + (bgr && channel < 3 ? 2 - channel : channel)];
      numbers[channelsLast ? pixel * channels + channel : channel * area + pixel] = of(value, bgr && channel < 3 ? 2 - channel : channel);
    }
  }
  return numbers;
}

const grey = (data, at) => Math.round(0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2]);
