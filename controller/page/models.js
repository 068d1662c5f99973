"use strict";
// What V's decoder, M and C compute, for one dream at a time; nothing here knows of the page. The Python that it repeats is vae/vae.py,
// rnn/rnn.py, rnn/lstm.py, rnn/mdn.py, rnn/rssm.py, rnn/recurrence.py, rnn/heads.py, controller/policy.py and env/actions.py.
//
// All chance comes in as arguments: `u`, uniform in 0..1 (Python's normal CDF of a standard normal number), and `eps`, standard normal.

/* ---------- products ---------- */

// (module (import "e" "m" (memory 1))
//   (func (export "rows") (param $y i32) (param $x i32) (param $w i32) (param $count i32) (param $bytes i32)
//     ;; for each of `count` numbers v at x: y[0..bytes) += v * w[0..bytes), then w += bytes
//     (local $v f32) (local $vv v128) (local $yp i32) (local $end i32) ...
const KERNEL = new Uint8Array([
  0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00, // magic, version
  0x01, 0x09, 0x01, 0x60, 0x05, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x00, // type 0: five i32 -> nothing
  0x02, 0x08, 0x01, 0x01, 0x65, 0x01, 0x6d, 0x02, 0x00, 0x01, // import e.m, a memory of at least one page
  0x03, 0x02, 0x01, 0x00, // function 0 is of type 0
  0x07, 0x08, 0x01, 0x04, 0x72, 0x6f, 0x77, 0x73, 0x00, 0x00, // export it as rows
  0x0a, 0x74, 0x01, 0x72, // code: one body of 114 bytes
  0x03, 0x01, 0x7d, 0x01, 0x7b, 0x02, 0x7f, // locals: 5 f32 v, 6 v128 vv, 7 i32 yp, 8 i32 end
  0x03, 0x40, // loop over the numbers at x
  0x20, 0x01, 0x2a, 0x02, 0x00, 0x22, 0x05, // v = *x
  0x43, 0x00, 0x00, 0x00, 0x00, 0x5c, // v != 0
  0x04, 0x40, // if
  0x20, 0x05, 0xfd, 0x13, 0x21, 0x06, // vv = v, v, v, v
  0x20, 0x00, 0x22, 0x07, 0x20, 0x04, 0x6a, 0x21, 0x08, // yp = y; end = y + bytes
  0x03, 0x40, // loop along the row
  0x20, 0x07, // address to store at
  0x20, 0x07, 0xfd, 0x00, 0x02, 0x00, // *yp
  0x20, 0x02, 0xfd, 0x00, 0x02, 0x00, // *w
  0x20, 0x06, 0xfd, 0xe6, 0x01, 0xfd, 0xe4, 0x01, // * vv, +
  0xfd, 0x0b, 0x02, 0x00, // store
  0x20, 0x02, 0x41, 0x10, 0x6a, 0x21, 0x02, // w += 16
  0x20, 0x07, 0x41, 0x10, 0x6a, 0x22, 0x07, // yp += 16
  0x20, 0x08, 0x49, 0x0d, 0x00, 0x0b, // again while yp < end
  0x05, 0x20, 0x02, 0x20, 0x04, 0x6a, 0x21, 0x02, 0x0b, // else: w += bytes
  0x20, 0x01, 0x41, 0x04, 0x6a, 0x21, 0x01, // x += 4
  0x20, 0x03, 0x41, 0x01, 0x6b, 0x22, 0x03, 0x0d, 0x00, 0x0b, // again while --count
  0x0b,
]);

/** Memory for weights and activations, and the one product that all layers are made of. */
class Arena {
  /** @param {number} floats how many float32 it holds  @param {boolean} simd whether to use WebAssembly where there is any */
  constructor(floats, simd = true) {
    this.used = 0;
    this.simd = false;
    const bytes = 4 * floats;
    try {
      if (!simd) throw new Error("not wanted");
      const memory = new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) });
      this.kernel = new WebAssembly.Instance(new WebAssembly.Module(KERNEL), { e: { m: memory } }).exports.rows;
      this.all = new Float32Array(memory.buffer);
      this.simd = true;
    } catch (error) {
      this.all = new Float32Array(floats);
    }
  }

  /** A part of the memory, all zeros: `size` floats, a multiple of 4, so that nothing beside it is touched. */
  take(size) {
    const from = this.used;
    this.used += Math.ceil(size / 4) * 4;
    if (this.used > this.all.length) throw new Error("the arena is too small");
    return this.all.subarray(from, from + size);
  }

  /** y[j] += x[i] * w[i * width + j] for i < count, j < width; y, x and w are places in the memory, width a multiple of 4. */
  rows(y, x, w, count, width) {
    if (this.simd) {
      this.kernel(4 * y, 4 * x, 4 * w, count, 4 * width);
      return;
    }
    const all = this.all;
    for (let i = 0; i < count; i++, w += width) {
      const v = all[x + i];
      if (v === 0) continue;
      for (let j = 0; j < width; j++) all[y + j] += v * all[w + j];
    }
  }
}

/** The place of a part of an arena's memory. */
const place = (part) => part.byteOffset / 4;
const padded = (size) => Math.ceil(size / 4) * 4;

/** A matrix [rows, columns] in the arena, each row padded. */
function matrix(arena, values, rows, columns) {
  const width = padded(columns);
  const kept = arena.take(rows * width);
  for (let i = 0; i < rows; i++) kept.set(values.subarray(i * columns, (i + 1) * columns), i * width);
  return kept;
}

/** y = x @ kernel + bias. */
class Dense {
  constructor(arena, kernel, bias) {
    const [inputs, outputs] = kernel.shape;
    this.arena = arena;
    this.inputs = inputs;
    this.width = padded(outputs);
    this.kernel = matrix(arena, kernel.values, inputs, outputs);
    this.bias = bias ? bias.values : null;
    this.input = arena.take(inputs);
    this.whole = arena.take(this.width);
    this.output = this.whole.subarray(0, outputs);
  }

  /** The arrays in `parts`, one after the other, -> outputs, valid until the next call. */
  run(...parts) {
    let at = 0;
    for (const part of parts) {
      this.input.set(part, at);
      at += part.length;
    }
    if (at !== this.inputs) throw new Error(`a layer of ${this.inputs} inputs was given ${at}`);
    if (this.bias) this.output.set(this.bias);
    else this.whole.fill(0);
    this.arena.rows(place(this.whole), place(this.input), place(this.kernel), this.inputs, this.width);
    return this.output;
  }
}

/** A transposed convolution of stride 2, valid, on a square picture [size, size, inputs]. Its kernel comes as [height, inputs, width * outputs]. */
class Deconv {
  constructor(arena, kernel, bias, size, last) {
    const [high, inputs, row] = kernel.shape;
    this.arena = arena;
    this.high = high;
    this.inputs = inputs;
    this.row = padded(row);
    this.size = size;
    this.outputs = bias.values.length;
    this.side = 2 * (size - 1) + high;
    this.kernel = matrix(arena, kernel.values, high * inputs, row);
    this.bias = bias.values;
    this.output = arena.take(this.side * this.side * this.outputs + 4); // the last row's padding reaches beyond the picture
    this.last = last;
  }

  /** input, in the arena -> the picture [side, side, outputs], through ReLU unless it is the last one. */
  run(input) {
    const { arena, size, side, outputs, inputs, row, high, output, bias } = this;
    const y = place(output);
    const x = place(input);
    const w = place(this.kernel);
    for (let at = 0; at < side * side * outputs; at += outputs) output.set(bias, at);
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) {
        for (let k = 0; k < high; k++) {
          arena.rows(y + ((2 * i + k) * side + 2 * j) * outputs, x + (i * size + j) * inputs, w + k * inputs * row, inputs, row);
        }
      }
    }
    if (!this.last) for (let at = 0; at < output.length; at++) if (output[at] < 0) output[at] = 0;
    return output;
  }
}

/* ---------- V ---------- */

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** V's decoder: z -> a picture. */
class Decoder {
  constructor(arena, weights) {
    const of = (name, part) => weights[`conv_vae/${name}/${part}`];
    this.first = new Dense(arena, of("dec_fc", "kernel"), of("dec_fc", "bias"));
    let size = 1;
    this.deconvs = [1, 2, 3, 4].map((number) => {
      const name = `dec_deconv${number}`;
      const layer = new Deconv(arena, of(name, "kernel"), of(name, "bias"), size, number === 4);
      size = layer.side;
      return layer;
    });
    this.side = size;
  }

  /** z -> sums before the last sigmoid, [side, side, 3], valid until the next call. */
  sums(z) {
    let x = this.first.run(z);
    for (const layer of this.deconvs) x = layer.run(x);
    return x;
  }

  /** z -> RGBA bytes [side, side, 4] into `pixels`. */
  draw(z, pixels) {
    const sums = this.sums(z);
    for (let from = 0, to = 0; to < pixels.length; from += 3, to += 4) {
      for (let c = 0; c < 3; c++) pixels[to + c] = Math.round(255 * sigmoid(sums[from + c]));
      pixels[to + 3] = 255;
    }
  }
}

/* ---------- M ---------- */

/** The number of those of `heights` (but the last) that lie below `reached`. */
function pick(heights, from, count, reached) {
  let picked = 0;
  while (picked < count - 1 && reached > heights[from + picked]) picked++;
  return picked;
}

/** The paper's M. A state is {z, h, c, restart}. */
class MDNRNN {
  constructor(arena, weights, shape) {
    this.shape = shape;
    this.lstm = new Dense(arena, weights["lstm/kernel"], weights["lstm/bias"]);
    this.last = new Dense(arena, weights["output/kernel"], weights["output/bias"]);
    this.heights = new Float64Array(shape.mixtures);
    // How many u and eps each takes.
    this.noise = { initial: [0, 0], observe: [0, 0], imagine: [shape.z_size, shape.z_size] };
    this.dreamsOfReward = shape.step_reward !== 0;
    this.dreamsOfEnd = shape.restart;
  }

  initial(x) {
    const units = this.shape.units;
    return { z: Float32Array.from(x), h: new Float32Array(units), c: new Float32Array(units), restart: 1 };
  }

  advance(state, action) {
    const units = this.shape.units;
    const parts = [state.z, action, ...(this.shape.restart ? [[state.restart]] : []), state.h];
    const gates = this.lstm.run(...parts);
    const h = new Float32Array(units);
    const c = new Float32Array(units);
    for (let n = 0; n < units; n++) {
      c[n] = state.c[n] * sigmoid(gates[2 * units + n] + 1) + sigmoid(gates[n]) * Math.tanh(gates[units + n]);
      h[n] = Math.tanh(c[n]) * sigmoid(gates[3 * units + n]);
    }
    return { h, c };
  }

  observe(state, action, x) {
    return { z: Float32Array.from(x), ...this.advance(state, action), restart: 0 };
  }

  /** -> {state, reward, goesOn, over}, and `picked`, which Gaussian each dimension took. */
  imagine(state, action, tau, noise) {
    const { mixtures, z_size, restart, step_reward } = this.shape;
    const { h, c } = this.advance(state, action);
    const all = this.last.run(h);
    const output = restart ? all.subarray(1) : all;
    const goesOn = restart ? sigmoid(-all[0]) : 1;
    const z = new Float32Array(z_size);
    const picked = new Uint8Array(z_size);
    for (let d = 0; d < z_size; d++) {
      const at = d * 3 * mixtures;
      let most = -Infinity;
      for (let k = 0; k < mixtures; k++) most = Math.max(most, output[at + k]);
      let sum = 0;
      for (let k = 0; k < mixtures; k++) this.heights[k] = sum += Math.exp((output[at + k] - most) / tau);
      picked[d] = pick(this.heights, 0, mixtures, noise.u[d] * sum);
      const mean = output[at + mixtures + picked[d]];
      z[d] = mean + Math.exp(output[at + 2 * mixtures + picked[d]]) * Math.sqrt(tau) * noise.eps[d];
    }
    const over = goesOn < 0.5;
    return { state: { z, h, c, restart: over ? 1 : 0 }, reward: step_reward, goesOn, over, picked };
  }

  latent(state) {
    return state.z;
  }

  /** What C sees; `names` as the setting controller.features. */
  features(state, names) {
    return { z: [state.z], zh: [state.z, state.h], zc: [state.z, state.c], zch: [state.z, state.c, state.h] }[names];
  }
}

/** The numbers that a two-hot answer is about: closest around 0 (rnn/heads.py, TwoHot). */
function twoHotBins(count) {
  const farthest = 10;
  return Float32Array.from({ length: count }, (_, k) => {
    const step = (2 * farthest * k) / (count - 1) - farthest;
    return Math.sign(step) * Math.expm1(Math.abs(step));
  });
}

/** x -> its RMS normalisation times `scale`, in place. */
function normalise(x, scale) {
  let sum = 0;
  for (let n = 0; n < x.length; n++) sum += x[n] * x[n];
  const factor = 1 / Math.sqrt(sum / x.length + 1e-4);
  for (let n = 0; n < x.length; n++) x[n] *= factor * scale[n];
  return x;
}

/** SiLU, in place. */
function silu(x) {
  for (let n = 0; n < x.length; n++) x[n] *= sigmoid(x[n]);
  return x;
}

/** One hidden layer, normalised, and a linear output (rnn/heads.py, Network). */
class Network {
  constructor(arena, weights, name) {
    const own = (part) => weights[Object.keys(weights).find((key) => key.endsWith(`${name}_${part}`))];
    this.hidden = new Dense(arena, own("dense1/kernel"), null);
    this.scale = own("norm1/scale").values;
    this.last = new Dense(arena, own("output/kernel"), own("output/bias"));
  }

  run(...parts) {
    return this.last.run(silu(normalise(this.hidden.run(...parts), this.scale)));
  }
}

/** The recurrent state-space model. A state is {h, s}. */
class RSSM {
  constructor(arena, weights, shape) {
    this.shape = shape;
    const own = (name) => weights[Object.keys(weights).find((key) => key === name || key.endsWith(`/${name}`))];
    this.fromS = new Dense(arena, own("s_kernel"), null);
    this.fromAction = new Dense(arena, own("action/kernel"), own("action/bias"));
    this.gru = new Dense(arena, own("gru_kernel"), null);
    this.fromH = new Dense(arena, own("posterior_kernel"), null);
    this.logits = new Dense(arena, own("logits_kernel"), own("logits_bias"));
    [this.sScale, this.gruScale, this.posteriorScale, this.gruBias] = ["s_scale", "gru_scale", "posterior_scale", "gru_bias"].map(
      (name) => own(name).values,
    );
    this.encoder = new Network(arena, weights, "encoder");
    this.prior = new Network(arena, weights, "prior");
    this.decoder = new Network(arena, weights, "decoder");
    this.reward = new Network(arena, weights, "reward");
    this.goesOn = new Network(arena, weights, "continue");
    this.bins = shape.reward_loss === "two_hot" ? twoHotBins(shape.bins) : null;
    const groups = shape.groups;
    this.noise = { initial: [groups, 0], observe: [groups, 0], imagine: [groups + 1, 0] };
    this.dreamsOfReward = this.dreamsOfEnd = true;
  }

  nextH(state, action) {
    const units = this.shape.units;
    const mixed = this.fromS.run(state.s);
    const led = this.fromAction.run(action);
    for (let n = 0; n < mixed.length; n++) mixed[n] += led[n];
    silu(normalise(mixed, this.sScale));
    const sums = normalise(this.gru.run(mixed, state.h), this.gruScale);
    const h = new Float32Array(units);
    for (let n = 0; n < units; n++) {
      const reset = sigmoid(sums[n] + this.gruBias[n]);
      const candidate = Math.tanh(reset * (sums[units + n] + this.gruBias[units + n]));
      const update = sigmoid(sums[2 * units + n] + this.gruBias[2 * units + n] - 1);
      h[n] = update * candidate + (1 - update) * state.h[n];
    }
    return h;
  }

  /** A one-hot draw from logits, at temperature tau, by uniform numbers; and which value each group took. */
  draw(logits, tau, u) {
    const { groups, classes, unimix } = this.shape;
    const s = new Float32Array(groups * classes);
    const picked = new Uint8Array(groups);
    const heights = new Float64Array(classes);
    for (let g = 0; g < groups; g++) {
      const at = g * classes;
      let most = -Infinity;
      for (let k = 0; k < classes; k++) most = Math.max(most, logits[at + k]);
      let sum = 0;
      for (let k = 0; k < classes; k++) sum += heights[k] = Math.exp(logits[at + k] - most);
      let total = 0;
      for (let k = 0; k < classes; k++) {
        total += Math.pow(((1 - unimix) * heights[k]) / sum + unimix / classes + 1e-20, 1 / tau);
        heights[k] = total;
      }
      picked[g] = pick(heights, 0, classes, u[g] * total);
      s[at + picked[g]] = 1;
    }
    return { s, picked };
  }

  initial(x, noise) {
    const { units, groups, classes, actions } = this.shape;
    const nothing = { h: new Float32Array(units), s: new Float32Array(groups * classes) };
    return this.observe(nothing, new Float32Array(actions), x, noise);
  }

  observe(state, action, x, noise) {
    const h = this.nextH(state, action);
    const embedded = this.encoder.run(x);
    const mixed = this.fromH.run(h);
    for (let n = 0; n < mixed.length; n++) mixed[n] += embedded[n];
    const logits = this.logits.run(silu(normalise(mixed, this.posteriorScale)));
    const { s, picked } = this.draw(logits, 1, noise.u);
    return { h, s, picked };
  }

  imagine(state, action, tau, noise) {
    const h = this.nextH(state, action);
    const { s, picked } = this.draw(this.prior.run(h), tau, noise.u);
    const goesOn = sigmoid(this.goesOn.run(h, s)[0]);
    const over = noise.u[this.shape.groups] > goesOn;
    return { state: { h, s }, reward: this.expected(this.reward.run(h, s)), goesOn, over, picked };
  }

  expected(outputs) {
    if (!this.bins) return outputs[0];
    let most = -Infinity;
    for (const value of outputs) most = Math.max(most, value);
    let sum = 0;
    let mean = 0;
    for (let k = 0; k < outputs.length; k++) {
      const weight = Math.exp(outputs[k] - most);
      sum += weight;
      mean += weight * this.bins[k];
    }
    return mean / sum;
  }

  latent(state) {
    return this.decoder.run(state.h, state.s);
  }

  features(state, names) {
    return { z: [state.s], zh: [state.s, state.h] }[names];
  }
}

const MEMORIES = { mdnrnn: MDNRNN, rssm: RSSM };

/* ---------- C and the game's actions ---------- */

const LEAST_STD = 0.1; // controller/policy.py
const MOST_STD = 1.0;
const SURE = 8.0;

/** C: what it sees -> its outputs, by tanh, or drawn by `noise`, so many u and eps (controller/policy.py). */
class Policy {
  constructor(params, shape) {
    this.layers = [];
    const { inputs, outputs, hidden, bias, drawn } = shape;
    let at = 0;
    const layer = (from, to, biased) => {
      const own = biased ? params.subarray(at, at + to) : new Float32Array(to);
      at += biased ? to : 0;
      const kernel = params.subarray(at, at + from * to);
      at += from * to;
      return { to, bias: own, kernel };
    };
    for (const [from, to] of hidden ? [[inputs, hidden], [hidden, outputs]] : [[inputs, outputs]]) this.layers.push(layer(from, to, bias));
    this.drawn = drawn;
    this.spread = drawn === "normal" ? layer(inputs, outputs, true) : null;
    this.noise = { normal: [0, outputs], categorical: [outputs, 0] }[drawn] ?? [0, 0];
  }

  sums(parts, { to, bias, kernel }) {
    const y = Float64Array.from(bias);
    let row = 0;
    for (const part of parts) for (const v of part) for (let n = 0; n < to; n++) y[n] += v * kernel[row++];
    return y;
  }

  act(parts, { u, eps }) {
    let x = parts;
    for (const layer of this.layers) x = [this.sums(x, layer).map(Math.tanh)];
    const y = x[0];
    if (this.drawn === "normal") {
      const spread = this.sums(parts, this.spread);
      return y.map((mean, n) => mean + (LEAST_STD + (MOST_STD - LEAST_STD) * sigmoid(spread[n] + 2)) * eps[n]);
    }
    return this.drawn ? this.choose(y, u) : y;
  }

  /** One-hot, drawn with Python's probabilities. */
  choose(y, u) {
    const powers = y.map((v) => Math.exp(SURE * v));
    const sum = powers.reduce((a, b) => a + b, 0);
    const heights = powers.map((power, n) => {
      const uniform = Math.min(1 - 1e-6, Math.max(1e-6, u[n]));
      return Math.log((0.99 * power) / sum + 0.01 / y.length) - Math.log(-Math.log(uniform));
    });
    return heights.map((_, n) => (n === heights.indexOf(Math.max(...heights)) ? 1 : 0));
  }
}

/** How C's outputs, or a person's keys, become an action (env/actions.py). */
class Actions {
  constructor(shape) {
    this.shape = shape;
    this.size = shape.low.length;
  }

  clip(values) {
    return Float32Array.from(values, (v, n) => Math.min(this.shape.high[n], Math.max(this.shape.low[n], v)));
  }

  oneHot(chosen) {
    return Float32Array.from({ length: this.size }, (_, n) => (n === chosen ? 1 : 0));
  }

  ofOutputs(y) {
    if (this.shape.kind === "discrete") {
      const rounded = Array.from(y, Math.fround); // as in Python: where tanh is 1 for several, the first of them is taken
      return this.oneHot(rounded.indexOf(Math.max(...rounded)));
    }
    return this.clip(Array.from(y, (v, n) => v * this.shape.scale[n] + this.shape.offset[n]));
  }

  /** pressed: how far each key is held down, 0..1, in the order of the game's keys; nothing pressed is the action of rest. */
  ofKeys(keys, pressed) {
    if (!pressed.some((p) => p > 0)) return Float32Array.from(this.shape.rest);
    if (this.shape.kind === "discrete") return Float32Array.from(keys[pressed.indexOf(Math.max(...pressed))].action);
    return this.clip(this.shape.low.map((_, n) => keys.reduce((sum, key, k) => sum + pressed[k] * key.action[n], 0)));
  }
}

/* ---------- chance ---------- */

/** Uniform and normal numbers from a seed (mulberry32, Box and Muller). */
class Chance {
  constructor(seed) {
    this.state = seed >>> 0;
    this.spare = null;
  }

  uniform() {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  }

  normal() {
    if (this.spare !== null) {
      const spare = this.spare;
      this.spare = null;
      return spare;
    }
    const radius = Math.sqrt(-2 * Math.log(this.uniform()));
    const angle = 2 * Math.PI * this.uniform();
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** Noise for M: so many u and eps. */
  noise([uniforms, normals]) {
    const u = Float64Array.from({ length: uniforms }, () => this.uniform());
    return { u, eps: Float64Array.from({ length: normals }, () => this.normal()) };
  }
}

/* ---------- from the page's data to all of these ---------- */

function halfToFloat(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The manifest's arrays of a buffer: name -> {shape, values: Float32Array}. int8 arrays are multiplied by a scale for each last index. */
function unpack(manifest, buffer) {
  const halves = Float32Array.from({ length: 65536 }, (_, bits) => halfToFloat(bits));
  const read = {
    float32: (at, size) => new Float32Array(buffer.slice(at, at + 4 * size)),
    float16: (at, size) => Float32Array.from(new Uint16Array(buffer.slice(at, at + 2 * size)), (bits) => halves[bits]),
    int8: (at, size) => Float32Array.from(new Int8Array(buffer.slice(at, at + size))),
  };
  const arrays = {};
  for (const [name, { dtype, shape, at, scale }] of Object.entries(manifest)) {
    const size = shape.reduce((a, b) => a * b, 1);
    const values = read[dtype](at, size);
    if (scale) for (let n = 0; n < size; n++) values[n] *= scale[n % scale.length];
    arrays[name] = { shape, values };
  }
  return arrays;
}

/** V's decoder, M, C (or null) and the game's actions, of the page's data. */
function makeModels(data, buffer, simd = true) {
  const arrays = unpack(data.arrays, buffer);
  const floats = Object.values(arrays).reduce((sum, { values, shape }) => sum + values.length + 4 * (shape[0] || 1) * (shape[1] || 1), 0);
  const arena = new Arena(floats + 4e5, simd);
  const part = (prefix) => Object.fromEntries(Object.entries(arrays).filter(([key]) => key.startsWith(prefix)).map(([key, value]) => [key.slice(prefix.length), value]));
  const memory = new MEMORIES[data.memory.kind](arena, part("rnn:"), data.memory);
  const decoder = new Decoder(arena, part("vae:"));
  const policy = data.policy ? new Policy(arrays["controller:params"].values, data.policy) : null;
  return { arena, arrays, memory, decoder, policy, actions: new Actions(data.actions) };
}
