"use strict";
// The page: what is shown, and who plays. What V, M and C compute is in models.js.

const $ = (id) => document.getElementById(id);
const SIDES = ["left", "right", "up", "down"];
const SIGNS = { left: "←", right: "→", up: "↑", down: "↓" };
// A task's keys have pygame's names (controller/play.py), a browser's events others.
const NAMES = { left: "arrowleft", right: "arrowright", up: "arrowup", down: "arrowdown", space: " ", return: "enter", "left shift": "shift", "right shift": "shift", "left ctrl": "control", "right ctrl": "control" };
const HOLD = 120; // ms for which a finger rests on the picture before it plays: a shorter touch may become a scroll
const AT_ONCE = 0.4; // how far a key counts as held down at its first step; it grows to 1, and fades when it is let go
const SHOWN_OVER = 1200; // ms for which a dream's end is shown
const SLIDERS = 15;
const FAR = 2.5; // how far V's sliders reach

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A canvas of one frame. */
class Screen {
  constructor(canvas, decoder) {
    this.context = canvas.getContext("2d");
    this.decoder = decoder;
    this.image = this.context.createImageData(64, 64);
  }

  /** V's picture of z. */
  show(z) {
    this.decoder.draw(z, this.image.data);
    this.context.putImageData(this.image, 0, 0);
  }

  /** A part of the sprite of recorded frames. */
  frame(sprite, number, columns) {
    this.context.drawImage(sprite, 64 * (number % columns), 64 * Math.floor(number / columns), 64, 64, 0, 0, 64, 64);
  }
}

/** The recorded games: their frames, what V made of them, what was done; and M's states as it is shown them. */
class Recordings {
  constructor(data, models, sprite) {
    this.models = models;
    this.sprite = sprite;
    this.columns = data.sprite.columns;
    this.zSize = data.memory.z_size;
    this.episodes = data.episodes.map((episode, number) => {
      const part = (name) => models.arrays[`episode${number}:${name}`].values;
      return { ...episode, mu: part("mu"), logvar: part("logvar"), action: part("action"), states: [], chance: new Chance(1000 + number) };
    });
  }

  of(array, size, step) {
    return array.subarray(step * size, (step + 1) * size);
  }

  mu(episode, step) {
    return this.of(this.episodes[episode].mu, this.zSize, step);
  }

  action(episode, step) {
    return this.of(this.episodes[episode].action, this.models.actions.size, step);
  }

  /** M's state at a frame, after all before it. */
  state(episode, step) {
    const own = this.episodes[episode];
    const { memory } = this.models;
    while (own.states.length <= step) {
      const now = own.states.length;
      const logvar = this.of(own.logvar, this.zSize, now);
      const x = Float32Array.from(this.mu(episode, now), (m, d) => m + Math.exp(logvar[d] / 2) * own.chance.normal());
      const before = own.states[now - 1];
      own.states.push(
        before
          ? memory.observe(before, this.action(episode, now - 1), x, own.chance.noise(memory.noise.observe))
          : memory.initial(x, own.chance.noise(memory.noise.initial)),
      );
    }
    return own.states[step];
  }

  draw(screen, episode, step) {
    screen.frame(this.sprite, this.episodes[episode].from + step, this.columns);
  }
}

/** One dream. */
class Dream {
  constructor(models, data, seed) {
    this.models = models;
    this.data = data;
    this.chance = new Chance(seed);
  }

  begin(state) {
    Object.assign(this, { state, steps: 0, score: 0, over: "" });
  }

  /** The agent's action, or rest where there is none. */
  agents() {
    const { policy, memory, actions } = this.models;
    if (!policy) return Float32Array.from(this.data.actions.rest);
    return actions.ofOutputs(policy.act(memory.features(this.state, this.data.policy.features), this.chance.noise(policy.noise)));
  }

  step(action, tau) {
    const { memory } = this.models;
    const answer = memory.imagine(this.state, action, tau, this.chance.noise(memory.noise.imagine));
    this.state = answer.state;
    this.steps += 1;
    this.score += answer.reward;
    if (answer.over) this.over = "dead";
    else if (this.steps >= this.data.most_steps) this.over = "limit";
  }
}

/** How far the game's keys are held down: by the keyboard, by buttons, or by fingers or a mouse on the picture. */
class Hands {
  constructor(keys) {
    this.keys = keys;
    this.held = new Set();
    this.pointers = new Map(); // by their number: where they are, -1..1, and from when on they count
    this.pressed = keys.map(() => 0);
  }

  get busy() {
    return this.held.size > 0 || [...this.pointers.values()].some(({ from }) => performance.now() >= from);
  }

  /** A step passes. */
  next() {
    this.pressed = this.keys.map(({ key }, n) => {
      const pointed = Math.max(0, ...[...this.pointers.values()].map(({ at }) => this.byPointer(key, at)));
      if (pointed) return pointed;
      if (this.held.has(key)) return Math.min(1, Math.max(AT_ONCE, this.pressed[n] + 0.1));
      return this.pressed[n] < 0.05 ? 0 : 0.6 * this.pressed[n];
    });
    return this.pressed;
  }

  byPointer(key, [x, y]) {
    const far = { left: -x, right: x, up: -y, down: y }[key] || 0;
    return far > 0.12 ? Math.min(1, AT_ONCE + 0.6 * far) : 0;
  }
}

/** The large dream: the agent plays, until a person takes over. */
class Play {
  constructor(models, data, recordings) {
    Object.assign(this, { models, data, recordings });
    this.screen = new Screen($("dream-canvas"), models.decoder);
    this.dream = new Dream(models, data, Date.now());
    this.hands = new Hands(data.keys);
    this.byHand = !models.policy;
    this.paused = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.visible = true;
    this.late = 0;
    this.results = [];
    this.best = { agent: null, you: null };
    this.counts = { steps: 0, pictures: 0, seconds: 0 };
    this.restart();
    this.listen();
    this.tell();
    requestAnimationFrame((now) => this.frame(now));
  }

  get tau() {
    return Number($("tau").value);
  }

  /** Begin again, at a recorded game's beginning. */
  restart() {
    const episode = Math.floor(Math.random() * this.data.episodes.length);
    this.begin(episode, Math.min(this.data.begin_at, Math.floor(this.data.episodes[episode].steps / 4)));
  }

  /** Begin at a moment of a recorded game. */
  begin(episode, step) {
    this.dream.begin(this.recordings.state(episode, step));
    this.players = new Set();
    this.endedAt = null;
    $("over").hidden = true;
    this.draw();
  }

  takeOver(on) {
    this.byHand = on || !this.models.policy;
    if (on) this.paused = false;
    this.tell();
  }

  tell() {
    $("who").textContent = this.byHand ? "you play" : "the agent plays";
    $("status").textContent = this.paused ? "Paused." : this.byHand ? "You play inside the dream." : "The agent plays inside the dream.";
    $("take").textContent = this.byHand ? "Give back to the agent" : "Take over";
    $("pause").textContent = this.paused ? "Go on" : "Pause";
    $("screen").classList.toggle("by-hand", this.byHand);
    document.body.classList.toggle("by-hand-page", this.byHand);
  }

  frame(now) {
    requestAnimationFrame((next) => this.frame(next));
    const passed = Math.min(0.25, (now - (this.last ?? now)) / 1000);
    this.last = now;
    if (this.hands.busy && !this.byHand) this.takeOver(true);
    if (this.paused || !this.visible || document.hidden) return;
    if (this.endedAt !== null) {
      if (now - this.endedAt > SHOWN_OVER) this.restart();
      return;
    }
    this.counts.seconds += passed;
    this.late += passed * this.data.frame_rate;
    if (this.late < 1) return;
    // A slow device draws fewer pictures before it dreams more slowly.
    const began = performance.now();
    do {
      this.late -= 1;
      this.advance();
    } while (this.late >= 1 && this.endedAt === null && performance.now() - began < 30);
    this.late = Math.min(this.late, 1);
    this.draw();
    this.measure();
  }

  advance() {
    const pressed = this.hands.next();
    this.players.add(this.byHand ? "you" : "agent");
    const action = this.byHand ? this.models.actions.ofKeys(this.data.keys, pressed) : this.dream.agents();
    this.lastAction = action;
    this.dream.step(action, this.tau);
    this.counts.steps += 1;
    if (this.dream.over) this.end();
  }

  end() {
    const { over, steps, score } = this.dream;
    const who = this.players.size > 1 ? "both" : [...this.players][0]; // a dream that both played is nobody's best
    if (this.data.dreams_reward) {
      if (who !== "both") this.best[who] = Math.max(this.best[who] ?? -Infinity, score);
      this.results = [...this.results, { result: score, who }].slice(-24);
    }
    $("over").textContent = over === "dead" ? `The dream ends after ${steps} steps` : `${steps} steps: as long as a dream may last`;
    $("over").hidden = false;
    $("best-agent").textContent = this.shown(this.best.agent);
    $("best-you").textContent = this.shown(this.best.you);
    this.endedAt = performance.now();
    this.drawHistory();
  }

  shown(value) {
    return value === null ? "–" : String(Math.round(value));
  }

  draw() {
    this.screen.show(this.models.memory.latent(this.dream.state));
    $("score").textContent = this.data.dreams_reward ? this.shown(this.dream.score) : "–";
    $("step").textContent = String(this.dream.steps);
    this.counts.pictures += 1;
  }

  drawHistory() {
    const most = Math.max(1, ...this.results.map(({ result }) => result));
    const bars = this.results.map(({ result, who }, n) => {
      const height = Math.max(1, (40 * Math.max(0, result)) / most);
      return `<rect x="${n * 10}" y="${44 - height}" width="8" height="${height}" fill="var(--${{ you: "you", agent: "accent", both: "quiet" }[who]})"/>`;
    });
    $("history").innerHTML = bars.join("");
  }

  measure() {
    const { steps, pictures, seconds } = this.counts;
    if (seconds < 2) return;
    $("speed").textContent = `${(steps / seconds).toFixed(0)} steps and ${(pictures / seconds).toFixed(0)} pictures a second${this.models.arena.simd ? "" : ", without WebAssembly"}`;
    this.counts = { steps: 0, pictures: 0, seconds: 0 };
  }

  listen() {
    const named = Object.fromEntries(this.data.keys.map(({ key }) => [NAMES[key] ?? key, key]));
    const elsewhere = (event) => ["INPUT", "SELECT", "TEXTAREA", "SUMMARY"].includes(event.target.tagName) || event.altKey || event.metaKey;
    const shortcuts = { a: () => this.takeOver(false), r: () => this.restart(), " ": () => this.togglePause() };
    addEventListener("keydown", (event) => {
      const pressed = event.key.toLowerCase();
      if (elsewhere(event) || !this.visible) return;
      if (named[pressed]) {
        event.preventDefault(); // or the page would scroll
        this.hands.held.add(named[pressed]);
        if (!event.repeat) this.goOn();
      } else if (shortcuts[pressed] && !event.repeat && !event.ctrlKey && !(pressed === " " && event.target.tagName === "BUTTON")) {
        event.preventDefault();
        shortcuts[pressed]();
      }
    });
    addEventListener("keyup", (event) => this.hands.held.delete(named[event.key.toLowerCase()]));
    addEventListener("blur", () => this.hands.held.clear());
    this.listenToPointers();
    $("take").addEventListener("click", () => this.takeOver(!this.byHand));
    $("again").addEventListener("click", () => this.restart());
    $("pause").addEventListener("click", () => this.togglePause());
    $("tau").addEventListener("input", () => tellTau(this.data));
    new IntersectionObserver(([entry]) => (this.visible = entry.isIntersecting), { threshold: 0.2 }).observe($("dream-canvas"));
  }

  /** Fingers and mice: on the picture towards a side, and on a button for each key that is no side. */
  listenToPointers() {
    const canvas = $("dream-canvas");
    const { pointers } = this.hands;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(2 * (event.clientX - box.left)) / box.width - 1, (2 * (event.clientY - box.top)) / box.height - 1];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !this.data.keys.some(({ key }) => SIDES.includes(key))) return;
      canvas.setPointerCapture(event.pointerId);
      const wait = event.pointerType === "touch" && !this.byHand ? HOLD : 0;
      pointers.set(event.pointerId, { at: at(event), from: performance.now() + wait });
      if (!wait) this.goOn();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (pointers.has(event.pointerId)) pointers.get(event.pointerId).at = at(event);
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
    for (const { key } of this.data.keys.filter((own) => !SIDES.includes(own.key))) {
      const button = element("button", { type: "button" }, key);
      button.addEventListener("pointerdown", () => this.hands.held.add(key));
      for (const name of ["pointerup", "pointercancel", "pointerleave"]) button.addEventListener(name, () => this.hands.held.delete(key));
      $("other-keys").append(button);
    }
  }

  goOn() {
    this.paused = false;
    this.tell();
  }

  togglePause() {
    this.paused = !this.paused;
    this.tell();
  }
}

function tellTau(data) {
  const tau = Number($("tau").value);
  $("tau-shown").textContent = tau.toFixed(2);
  const trained = data.policy ? data.policy.temperature : null;
  const far = tau < 0.3 ? "Almost nothing is left to chance." : tau > 2 ? "Almost anything may happen." : "";
  $("tau-note").textContent = far || (trained ? `C was ${data.policy.dreamt ? "trained in dreams at" : "not trained in dreams; 1 is M as it learned, and"} ${data.policy.dreamt ? trained : "more is less predictable"}.` : "1 is M as it learned.");
}

/** Real | kept | dreamt. */
class Compare {
  constructor(models, data, recordings, play) {
    Object.assign(this, { models, data, recordings, play });
    this.screens = Object.fromEntries(["real", "kept", "dreamt"].map((id) => [id, new Screen($(id), models.decoder)]));
    this.dream = new Dream(models, data, 7);
    this.rolling = null;
    data.episodes.forEach((episode, n) => $("episode").append(element("option", { value: n }, `${n + 1}: ${episode.note}`)));
    $("episode").addEventListener("change", () => this.choose(Number($("episode").value)));
    $("moment").addEventListener("input", () => this.stop() || this.look());
    $("acts").addEventListener("change", () => this.stop() || this.look());
    $("acts").closest("label").hidden = !models.policy;
    $("roll").addEventListener("click", () => (this.rolling ? this.stop() : this.roll()));
    $("enter").addEventListener("click", () => {
      this.play.takeOver(true);
      this.play.begin(this.episode, this.moment);
      $("dream").scrollIntoView({ behavior: "smooth" });
      $("dream-canvas").focus({ preventScroll: true });
    });
    this.choose(0);
  }

  get moment() {
    return Number($("moment").value);
  }

  choose(episode) {
    this.stop();
    this.episode = episode;
    this.last = this.data.episodes[episode].steps;
    $("moment").max = this.last - 1;
    $("moment").value = Math.floor(this.last / 3);
    this.look();
  }

  /** Show the chosen moment. */
  look() {
    this.now = this.moment;
    this.dream.begin(this.recordings.state(this.episode, this.now));
    this.draw();
  }

  draw() {
    this.recordings.draw(this.screens.real, this.episode, this.now);
    const latents = this.models.memory.latent;
    this.screens.kept.show(this.data.keeps_by_m ? latents.call(this.models.memory, this.recordings.state(this.episode, this.now)) : this.recordings.mu(this.episode, this.now));
    this.screens.dreamt.show(latents.call(this.models.memory, this.dream.state));
    const ahead = this.now - this.moment;
    $("moment-shown").textContent = `step ${this.moment} of ${this.last}${ahead ? `, and ${ahead} dreamt` : ""}`;
    $("dreamt-name").textContent = this.dream.over ? `M's dream: over after ${this.dream.steps} steps` : ahead ? `M's dream, for ${ahead} steps` : "M's dream";
  }

  roll() {
    this.look();
    $("roll").textContent = "Stop";
    this.rolling = setInterval(() => {
      if (this.now >= this.last) return this.stop();
      if (!this.dream.over) {
        this.dream.step($("acts").value === "agent" ? this.dream.agents() : this.recordings.action(this.episode, this.now), this.play.tau);
      }
      this.now += 1;
      this.draw();
    }, 1000 / this.data.frame_rate);
  }

  stop() {
    clearInterval(this.rolling);
    this.rolling = null;
    $("roll").textContent = "Dream on from here";
  }
}

/** V's numbers on sliders. */
class Latents {
  constructor(models, data, recordings) {
    Object.assign(this, { models, data, recordings });
    this.real = new Screen($("frame"), models.decoder);
    this.drawn = new Screen($("drawn"), models.decoder);
    this.chance = new Chance(3);
    const nats = this.nats();
    this.order = [...nats.keys()].sort((a, b) => nats[b] - nats[a]).slice(0, SLIDERS);
    const alive = nats.filter((n) => n > 0.1).length;
    $("latent-lead").textContent = `V keeps ${data.memory.z_size} numbers of a frame, ${alive} of which say more than a tenth of a nat. These are the ${this.order.length} that say most.`;
    this.inputs = this.order.map((dimension) => {
      const input = element("input", { type: "range", min: -FAR, max: FAR, step: 0.05, "aria-label": `z ${dimension}` });
      input.addEventListener("input", () => this.moved(dimension, Number(input.value)));
      $("sliders").append(element("label", { class: "control" }, element("span", {}, `z${dimension}`, element("small", {}, `${nats[dimension].toFixed(1)} nats`)), input));
      return input;
    });
    $("another").addEventListener("click", () => this.another());
    $("reset").addEventListener("click", () => this.take(this.z0));
    $("random").addEventListener("click", () => this.take(Float32Array.from(this.z0, () => this.chance.normal())));
    this.another();
  }

  /** The mean KL of each dimension to a standard normal, in nats, over the recorded frames. */
  nats() {
    const size = this.data.memory.z_size;
    const sums = new Array(size).fill(0);
    let frames = 0;
    for (const { mu, logvar } of this.recordings.episodes) {
      for (let n = 0; n < mu.length; n++) sums[n % size] += 0.5 * (mu[n] * mu[n] + Math.exp(logvar[n]) - 1 - logvar[n]);
      frames += mu.length / size;
    }
    return sums.map((sum) => sum / frames);
  }

  another() {
    const episode = Math.floor(this.chance.uniform() * this.data.episodes.length);
    const step = Math.floor(this.chance.uniform() * this.data.episodes[episode].steps);
    this.recordings.draw(this.real, episode, step);
    this.z0 = Float32Array.from(this.recordings.mu(episode, step));
    this.take(this.z0);
  }

  take(z) {
    this.z = Float32Array.from(z);
    this.order.forEach((dimension, n) => (this.inputs[n].value = z[dimension]));
    this.drawn.show(this.z);
  }

  moved(dimension, value) {
    this.z[dimension] = value;
    this.drawn.show(this.z);
  }
}

/** A table of rows of text; a row may have a class. */
function table(header, rows) {
  const cells = (kind, values) => values.map((value) => element(kind, {}, value));
  const body = rows.map(({ values, name }) => element("tr", name ? { class: name } : {}, ...cells("td", values)));
  const made = element("table", {}, element("thead", {}, element("tr", {}, ...cells("th", header))), element("tbody", {}, ...body));
  return element("div", { class: "scroll" }, made);
}

/** A chart of curves: [{name, points: [[x, y]], color, dashed, dots}]. */
function chart(curves, xName, yName) {
  const [width, height, left, bottom, right] = [640, 260, 52, 34, 20];
  const points = curves.flatMap((curve) => curve.points);
  const bounds = (axis) => [Math.min(...points.map((p) => p[axis])), Math.max(...points.map((p) => p[axis]))];
  const [[x0, x1], [y0, y1]] = [bounds(0), bounds(1)];
  const x = (v) => left + ((width - left - right) * (v - x0)) / (x1 - x0 || 1);
  const y = (v) => height - bottom - ((height - bottom - 10) * (v - y0)) / (y1 - y0 || 1);
  const parts = [];
  const label = (v, most) => (most >= 20 ? v.toFixed(0) : v.toPrecision(3));
  for (let n = 0; n <= 4; n++) {
    const [vx, vy] = [x0 + ((x1 - x0) * n) / 4, y0 + ((y1 - y0) * n) / 4];
    parts.push(`<line class="axis" x1="${left}" x2="${width - right}" y1="${y(vy)}" y2="${y(vy)}"/>`);
    parts.push(`<text x="${left - 6}" y="${y(vy) + 4}" text-anchor="end">${label(vy, y1)}</text>`);
    parts.push(`<text x="${x(vx)}" y="${height - bottom + 16}" text-anchor="middle">${label(vx, x1)}</text>`);
  }
  parts.push(`<text x="${(left + width) / 2}" y="${height - 3}" text-anchor="middle">${xName}</text>`);
  for (const { points: own, color, dashed, dots } of curves) {
    const path = own.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`);
    if (!dots) parts.push(`<polyline points="${path.join(" ")}" fill="none" stroke="${color}" stroke-width="1.8"${dashed ? ' stroke-dasharray="5 4"' : ""}/>`);
    else parts.push(...path.map((p) => `<circle cx="${p.split(",")[0]}" cy="${p.split(",")[1]}" r="3.2" fill="${color}"/>`));
  }
  const legend = curves.map(({ name, color }) => element("span", { style: `color:${color}` }, `● ${name}`));
  const holder = element("figure", {});
  holder.innerHTML = `<svg class="chart" viewBox="0 0 ${width} ${height}" role="img" aria-label="${yName} against ${xName}">${parts.join("")}</svg>`;
  holder.append(element("figcaption", {}, ...legend));
  return holder;
}

function showReport(data) {
  const body = $("report-body");
  const { scores, curves, settings, sizes, published } = data.report;
  body.append(element("p", {}, sizes));
  if (scores.length) {
    const rows = [
      ...scores.map((row) => ({ name: "ours", values: [row.where, row.mean, row.interval, row.episodes] })),
      ...published.map((row) => ({ values: [row.method, row.mean, "", "100"] })),
    ];
    body.append(table(["", "score ± std", "95% interval", "episodes"], rows), element("p", { class: "small" }, data.report.source));
  } else body.append(element("p", {}, "This agent was not scored yet."));
  const charts = element("div", { class: "charts" });
  for (const { title, x, y, lines } of curves) {
    if (lines.some(({ points }) => points.length > 1)) charts.append(element("div", {}, element("h3", {}, `${title}, against the ${x}`), chart(lines, x, y)));
  }
  body.append(charts);
  body.append(element("details", {}, element("summary", {}, "All settings"), element("pre", {}, JSON.stringify(settings, null, 2))));
}

/** What can be pressed; and nothing about taking over where nothing can, or giving back where there is no agent. */
function describeKeys(data, models) {
  const sides = data.keys.some(({ key }) => SIDES.includes(key));
  const taken = data.keys.map(({ key }) => NAMES[key] ?? key);
  const named = (sign, does, key) => (taken.includes(key) ? [] : [element("kbd", {}, sign), ` ${does} `]);
  const games = data.keys.flatMap(({ key }) => [element("kbd", {}, SIGNS[key] ?? key), " "]);
  const back = models.policy && games.length ? named("A", "give back ·", "a") : [];
  const all = [...games, ...(games.length ? ["play · "] : []), ...back, ...named("R", "start again ·", "r"), ...named("space", "pause.", " ")];
  $("keys").append(element("span", { class: "by-keys" }, ...all), sides ? " Press on the picture, towards a side, to steer." : "");
  $("take").hidden = !models.policy || !games.length;
  $("best-agent").parentElement.hidden = !models.policy;
}

/** Base64 of raw deflate -> its bytes. */
async function inflate(text) {
  const bytes = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(stream).arrayBuffer();
}

async function loadSprite(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  return image;
}

async function main() {
  const data = JSON.parse($("data").textContent);
  for (const [side, far] of [["low", -Infinity], ["high", Infinity]]) data.actions[side] = data.actions[side].map((v) => v ?? far); // null: no bound
  $("title").textContent = data.title;
  $("lead").textContent = data.lead;
  $("made").textContent = data.made;
  const [buffer, sprite] = await Promise.all([inflate($("weights").textContent), loadSprite(data.sprite.source)]);
  const models = makeModels(data, buffer);
  $("main").hidden = false;
  $("tau").value = data.policy && data.policy.dreamt ? data.policy.temperature : 1;
  tellTau(data);
  $("kept-name").textContent = data.keeps_by_m ? "what M's state keeps of it" : "V's reconstruction";
  $("dream").classList.toggle("no-reward", !data.dreams_reward);
  describeKeys(data, models);
  const recordings = new Recordings(data, models, sprite);
  const play = new Play(models, data, recordings);
  const compare = new Compare(models, data, recordings, play);
  new Latents(models, data, recordings);
  showReport(data);
  globalThis.page = { data, models, recordings, play, compare }; // for the curious, and the tests
}

main().catch((error) => {
  $("failure").textContent = `The page could not start (${error.message}). It needs a browser of 2023 or later.`;
  $("failure").hidden = false;
  throw error;
});
