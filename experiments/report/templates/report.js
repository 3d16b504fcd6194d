"use strict";
// The browser of samples. Everything that comes from a data set or a model is set as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("filters"), list = document.getElementById("list"), detail = document.getElementById("detail");
  const { size, columns } = data.samples;
  if (!size) { form.hidden = true; return; }
  const NONE = "none", ANY = "", MOST = 400;
  const task = data.axes.indexOf("task"), distinct = name => (columns[name] || [[]])[0];
  // A sample reads its fields from the columns, which have each value once.
  function Sample(place) { this.place = place; }
  for (const [name, [values, codes]] of Object.entries(columns)) {
    const own = name === "arm" ? values.map(i => data.arms[i]) : values;
    Object.defineProperty(Sample.prototype, name, { get() { return own[codes[this.place]]; } });
  }
  data.samples = Array.from({ length: size }, (_, place) => new Sample(place));
  const axes = data.axes.map((name, i) => ({ name, i, values: [...new Set(data.arms.map(arm => String(arm[i])))] }))
    .filter(a => a.values.length > 1 || a.i === task);
  const seeds = distinct("seed");
  const scored = s => s.score !== null && s.score !== undefined && data.better !== "neither";
  const good = s => data.better === "lower" ? 1 - s.score : s.score;
  const verdict = s => s.failed ? "failed" : !scored(s) ? "unscored" : good(s) >= 1 ? "right" : good(s) <= 0 ? "wrong" : "part";
  const sign = { right: "✓", wrong: "✗", part: "~", failed: "!", unscored: "·" };
  const look = { right: "right", wrong: "wrong", part: "soft", failed: "broken", unscored: "soft" };
  const number = (x, digits = 3) => x === null || x === undefined ? "–" : x.toFixed(digits).replace(/^(-?)0\./, "$1.");
  const armOf = Uint32Array.from(columns.arm[1], code => columns.arm[0][code]);
  // The samples of one query of one task, and the number of the query of each sample.
  const tasks = new Map(), queries = distinct("query").length;
  const taskOf = data.arms.map(arm => tasks.get(arm[task]) ?? tasks.set(arm[task], tasks.size).get(arm[task]));
  const peers = [], queryOf = new Uint32Array(size), places = new Int32Array(tasks.size * queries).fill(-1);
  data.samples.forEach((s, n) => {
    const k = taskOf[armOf[n]] * queries + columns.query[1][n];
    if (places[k] < 0) { places[k] = peers.length; peers.push([]); }
    queryOf[n] = places[k];
    peers[places[k]].push(s);
  });
  const disagree = peers.map(all => all.some(s => s.score !== all[0].score));
  let texts = null;
  const searchable = () => {
    const questions = data.contexts.map(c => c.question.toLowerCase());
    return data.samples.map(s => `${s.query}\n${s.output || ""}\n${(s.gold || []).join("\n")}`.toLowerCase() + "\n" + questions[s.context]);
  };
  const arm = s => axes.filter(a => a.i !== task && String(s.arm[a.i]) !== NONE)
    .map(a => a.name === "shots" ? `${s.arm[a.i]} shot${s.arm[a.i] === 1 ? "" : "s"}` : String(s.arm[a.i])).join(", ") || "the only arm";

  const make = (tag, options = {}, ...inside) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (name === "class") node.className = value;
      else if (name in node && typeof value !== "string") node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...inside);
    return node;
  };
  const image = digest => {
    const source = data.images[digest];
    if (!source) return make("span", { class: "lost", title: digest }, `image ${digest.slice(0, 8)}`);
    return make("img", { src: source, alt: `image ${digest.slice(0, 8)}`, loading: "lazy" });
  };
  const select = (name, label, options, value) => {
    const box = make("select", { name });
    for (const [v, words] of options) box.append(make("option", { value: v }, words));
    box.value = value;
    form.append(make("label", {}, label, box));
    return box;
  };
  const preferred = a => {
    if (a.name === "shots") return a.values.reduce((x, y) => Number(y) > Number(x) ? y : x);
    return a.values.find(v => v !== NONE) ?? a.values[0];
  };
  for (const a of axes) {
    const shown = a.i === task ? a.values : a.values.filter(v => v !== NONE);
    const options = shown.map(v => [v, v]);
    select(`axis${a.i}`, a.name, a.i === task ? options : [...options, [ANY, "any"]], preferred(a));
  }
  if (seeds.length > 1) select("seed", "seed", [...seeds.map(s => [String(s), String(s)]), [ANY, "any"]], String(seeds[0]));
  // Columns of the data by which the run is reported.
  const fact = (s, name) => {
    const value = (s.meta || {})[name] ?? (name === "answer" ? (s.gold || [])[0] : undefined);
    return value === undefined ? "(no value)" : String(value);
  };
  for (const name of data.by) {
    const values = [...new Set(data.samples.map(s => fact(s, name)))];
    if (values.length > 1) select(`by-${name}`, name, [[ANY, "any"], ...values.map(v => [v, v])], ANY);
  }
  select("result", "answer", [["all", "all"], ["right", "right"], ["wrong", "wrong"], ["part", "partly right"], ["failed", "failed"], ["disagree", "arms disagree"]], "all");
  form.append(make("label", {}, "search", make("input", { type: "search", name: "words", placeholder: "question, answer, id" })));
  const count = make("span", { class: "note", id: "count", role: "status" });
  form.append(count);

  const field = name => form.elements[name] ? form.elements[name].value : ANY;
  // The filters are read once, then applied to every sample.
  const filter = () => {
    const wanted = axes.map(a => [a.i, field(`axis${a.i}`)]).filter(([, value]) => value !== ANY);
    const fits = data.arms.map(arm => wanted.every(([i, value]) => [value, NONE].includes(String(arm[i]))));
    const facts = data.by.map(name => [name, field(`by-${name}`)]).filter(([, value]) => value !== ANY);
    const seed = field("seed"), result = field("result"), words = field("words").trim().toLowerCase();
    if (words) texts ??= searchable();
    return data.samples.filter((s, n) => {
      if (!fits[armOf[n]]) return false;
      if (!facts.every(([name, value]) => fact(s, name) === value)) return false;
      if (seed !== ANY && String(s.seed) !== seed) return false;
      if (result === "disagree" ? !disagree[queryOf[n]] : result !== "all" && verdict(s) !== result) return false;
      return !words || texts[n].includes(words);
    });
  };
  let current = null;
  const fill = () => {
    const found = filter();
    list.replaceChildren(...found.slice(0, MOST).map(row));
    count.textContent = `${found.length} of ${data.samples.length} samples` + (found.length > MOST ? `, the first ${MOST} listed` : "");
    const again = found.includes(current) ? current : found.find(s => current && queryOf[s.place] === queryOf[current.place]) || found[0];
    if (again) open(again); else { current = null; detail.replaceChildren(make("p", { class: "soft" }, "No sample fits these filters.")); }
  };
  const row = s => {
    const context = data.contexts[s.context], v = verdict(s);
    const button = make("button", { type: "button", "data-query": s.query },
      make("span", { class: look[v], title: v }, sign[v]),
      context.query.length ? image(context.query[0]) : make("span"),
      make("span", { class: "words" },
        make("span", {}, context.question || s.query),
        make("span", { class: "soft" }, s.failed ? s.failed : `${s.output || "(nothing)"}  ·  gold ${(s.gold || []).slice(0, 2).join(" / ")}`)));
    button.addEventListener("click", () => open(s));
    button.sample = s;
    return button;
  };
  const open = s => {
    current = s;
    for (const button of list.children) button.setAttribute("aria-current", String(button.sample === s));
    detail.replaceChildren(...parts(s));
  };
  // One answer token by token: tinted by how far the branches are apart, and what each of them said at the chosen one.
  const LEVELS = 5, FARTHEST = Math.LN2;
  const shown = word => word === "" ? "(end)" : word.trim() ? word : "␣".repeat(word.length);
  const level = (t, i) => {
    const heat = t.js_divergence ? Math.max(...t.js_divergence[i]) / FARTHEST : t.entropy[i][0] / Math.log(20);
    return Math.max(0, Math.min(LEVELS, Math.round(LEVELS * Math.sqrt(heat))));
  };
  const stepTable = (t, i) => {
    const last = t.top[i].length - 1, weights = (t.weights || [])[t.weights && t.weights.length > 1 ? i : 0];
    const name = b => b === 0 ? "reference" : b === last ? "combined" : `branch ${b}`;
    const head = make("tr", {}), body = make("tbody"), foot = make("tr", { class: "soft" });
    for (let b = 0; b <= last; b++) {
      const weight = weights && b < last ? ` ×${number(weights[b], 2)}` : "";
      head.append(make("th", { scope: "col", colspan: "2" }, name(b) + weight));
      const apart = t.js_divergence && b > 0 && b < last ? `, JS divergence ${number(t.js_divergence[i][b - 1])}` : "";
      foot.append(make("td", { colspan: "2" }, `entropy ${number(t.entropy[i][b], 2)}${apart}`));
    }
    for (let k = 0; k < Math.max(...t.top[i].map(row => row.length)); k++) {
      const line = make("tr");
      t.top[i].forEach((row, b) => {
        const taken = row[k] === t.chosen[i] ? "taken" : "";
        line.append(make("td", { class: taken }, k < row.length ? shown(t.words[row[k]]) : ""), make("td", { class: "n" }, k < row.length ? number(t.p[i][b][k]) : ""));
      });
      body.append(line);
    }
    body.append(foot);
    return make("table", { class: "step" }, make("thead", {}, head), body);
  };
  const stepsOf = t => {
    const strip = make("div", { class: "strip", role: "group", "aria-label": "The answer, token by token" }), below = make("div", { class: "wide" });
    const pick = i => {
      [...strip.children].forEach((b, j) => b.setAttribute("aria-pressed", String(i === j)));
      const left = t.plausible_tokens[i], words = t.changed[i] ? `; the reference would say ${shown(t.words[t.top[i][0][0]])}` : "";
      const kept = left === undefined ? "" : `: ${left} token${left === 1 ? " survives" : "s survive"} the mask`;
      below.replaceChildren(make("p", { class: "note" }, `Step ${i}, ${shown(t.words[t.chosen[i]])}${kept}${words}.`), stepTable(t, i));
    };
    t.chosen.forEach((place, i) => {
      const apart = t.js_divergence ? `JS divergence ${number(Math.max(...t.js_divergence[i]))}` : `entropy ${number(t.entropy[i][0], 2)}`;
      const button = make("button", { type: "button", class: `heat${level(t, i)}${t.changed[i] ? " changed" : ""}`, title: apart }, shown(t.words[place]));
      button.addEventListener("click", () => pick(i));
      strip.append(button);
    });
    const first = t.changed.findIndex(x => x), levels = t.chosen.map((_, i) => level(t, i));
    pick(first < 0 ? levels.indexOf(Math.max(...levels)) : first);
    const tint = t.js_divergence ? "The darker a token, the further the branches diverge (Jensen-Shannon divergence from the reference; darkest: .69 nats, disjoint)." : "The darker a token, the less sure the model was (entropy).";
    return [make("h3", {}, "Steps"), strip, make("p", { class: "note" }, `${tint}${t.js_divergence ? " Underlined: the token differs from the best token of the reference." : ""} Choose a token to see what each branch said.`), below];
  };
  const parts = s => {
    const context = data.contexts[s.context], v = verdict(s), told = [];
    const answers = make("dl", { class: "answers" });
    const line = (name, ...value) => answers.append(make("dt", {}, name), make("dd", {}, ...value));
    if (s.failed) line("failed", make("span", { class: "broken" }, s.failed));
    else line("answer", make("span", { class: look[v] }, `${sign[v]} ${s.output || "(nothing)"}`));
    line("gold", (s.gold || []).join(" / ") || "–");
    if (s.options) line("option scores", Object.entries(s.options).map(([o, x]) => `${o} ${number(x, 2)}`).join("   "));
    const listed = scores => Object.entries(scores || {}).filter(([, x]) => x != null).map(([m, x]) => `${m} ${number(x, 2)}`).join("   ");
    line("scores", listed(s.scores) || "–");
    if (listed(s.baselines)) line("baselines", listed(s.baselines));
    line("arm", arm(s) + (seeds.length > 1 ? `, seed ${s.seed}` : ""));
    line("query", s.query + (s.meta ? "   " + Object.entries(s.meta).map(([k, x]) => `${k} ${typeof x === "string" ? x : JSON.stringify(x)}`).join("   ") : ""));
    if (s.dropped) line("dropped", `${s.dropped} demonstrations did not fit the context`);
    if (s.finish === "length") line("finish", "cut at the limit of new tokens");
    if (s.thinking === "cut") line("thinking", "cut at the limit of thinking tokens");
    if (s.thinking === "open") line("thinking", "never closed");
    told.push(make("div", { class: "asked" }, ...(context.query.length ? [make("span", {}, ...context.query.map(image))] : []),
      make("div", {}, make("p", { class: "question" }, context.question || s.query), answers)));
    if (s.steps) told.push(...stepsOf(s.steps));
    if (context.demos.length) {
      const strip = make("ol", { class: "demos" });
      context.demos.forEach(([id, score, answer, shown], i) => {
        const same = (s.gold || []).some(g => g.toLowerCase() === String(answer).toLowerCase());
        strip.append(make("li", { title: id }, ...shown.map(d => { const p = image(d); if (same) p.classList.add("same"); return p; }),
          make("div", {}, `${i + 1}. ${answer}`), make("div", { class: "soft" }, score ? `similarity ${number(score, 2)}` : id)));
      });
      told.push(make("h3", {}, "Demonstrations, in the order of the prompt"), strip,
        make("p", { class: "note" }, "Outlined: the demonstration's answer is the gold."));
    }
    const others = peers[queryOf[s.place]].filter(o => o.seed === s.seed);
    if (others.length > 1) {
      const body = make("tbody");
      for (const o of others) {
        const w = verdict(o), link = make("button", { type: "button" }, arm(o));
        link.addEventListener("click", () => open(o));
        body.append(make("tr", { class: o === s ? "here" : "" }, make("td", { class: look[w] }, sign[w]), make("td", {}, link), make("td", {}, o.failed || o.output || "(nothing)")));
      }
      told.push(make("h3", {}, "The same query under the other arms"), make("div", { class: "wide" }, make("table", { class: "others" }, body)));
    }
    if (context.prompt.some(t => t)) {
      const pre = make("div", { class: "prompt" });
      context.prompt.forEach((text, i) => { if (i) pre.append(image(context.images[i - 1])); pre.append(text); });
      told.push(make("h3", {}, "Prompt"), pre);
    }
    return told;
  };
  form.addEventListener("input", fill);
  form.addEventListener("submit", event => event.preventDefault());
  list.addEventListener("keydown", event => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const next = step && document.activeElement[step];
    if (next) { event.preventDefault(); next.focus(); next.click(); }
  });
  fill();
  setTimeout(() => { texts ??= searchable(); }, 300);
})();
