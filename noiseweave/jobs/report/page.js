"use strict";
// All text comes from strangers' keys, captions and files: it is set as text, never as markup.
(() => {
  const PAGE = 48;
  const data = JSON.parse(document.getElementById("data").textContent);
  const gallery = data.gallery;
  const $ = (id) => document.getElementById(id);
  const count = (n) => (typeof n === "number" ? n.toLocaleString("en-US", { maximumFractionDigits: 2 }) : n);
  const show = (v) => (v === null || v === undefined || v === "" ? "–" : String(v));

  // make("p", {class: "note"}, "text", node, ...): strings become text nodes
  function make(name, about, ...inside) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(about || {})) {
      if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...inside.filter((x) => x !== null && x !== undefined).map((x) => (x instanceof Node ? x : String(x))));
    return node;
  }

  function draw(name, about) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(about)) node.setAttribute(key, value);
    return node;
  }

  function seconds(s) {
    if (s === null || s === undefined) return "–";
    if (s < 60) return `${s.toFixed(s < 10 ? 2 : 1)} s`;
    const minutes = Math.round(s / 60);
    return minutes < 60 ? `${(s / 60).toFixed(1)} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  }

  const pace = (n, s) => (n && s > 0 ? `${Number((n / s).toPrecision(3)).toLocaleString("en-US")}/s` : "–");
  const panel = (title, ...inside) => make("div", { class: "panel" }, title ? make("h3", {}, title) : null, ...inside);

  // tooltips

  const tip = $("tip");
  function point(text, x, y) {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 4))}px`;
    tip.style.top = `${Math.max(4, y - box.height - 10)}px`;
  }
  const unpoint = () => { tip.hidden = true; };

  // a histogram; arrow keys walk over its bars, Enter or a click picks one

  function histogram(title, bins, words, pick) {
    const W = innerWidth < 560 ? 350 : 560, H = 180, left = 44, bottom = 22, top = 12;
    const most = Math.max(1, ...bins.map((b) => b.n));
    const step = (W - left - 4) / bins.length, tall = H - bottom - top;
    const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, class: pick ? "chart picks" : "chart", role: "img", tabindex: 0 });
    svg.setAttribute("aria-label", `${title}: ${bins.length} bars, the highest ${count(most)}. Arrow keys read them.`);
    for (const part of [0, 0.5, 1]) {
      const y = top + tall * (1 - part);
      svg.append(draw("line", { class: "axis", x1: left, x2: W, y1: y, y2: y }));
      if (part !== 0.5 || most > 1) {
        const text = draw("text", { x: left - 6, y: y + 4, "text-anchor": "end" });
        text.textContent = count(Math.round(most * part));
        svg.append(text);
      }
    }
    const every = Math.ceil(bins.length / (W > 400 ? 10 : 6));
    let here = -1;
    const groups = bins.map((bin, i) => {
      const group = draw("g", {}), high = bin.n ? Math.max(1.5, (bin.n / most) * tall) : 0;
      const x = left + i * step;
      group.append(draw("rect", { class: "bar", x: x + step * 0.07, y: top + tall - high, width: step * 0.86, height: high, rx: Math.min(2, step / 6) }));
      group.append(draw("rect", { class: "hit", x, y: top, width: step, height: tall }));
      if (i % every === 0) {
        const text = draw("text", { x: words.edge ? x : x + step / 2, y: H - 6, "text-anchor": "middle" });
        text.textContent = words.tick(bin);
        svg.append(text);
      }
      group.addEventListener("pointermove", (e) => point(words.tip(bin), e.clientX, e.clientY));
      group.addEventListener("pointerleave", unpoint);
      if (pick) group.addEventListener("click", () => pick(bin));
      svg.append(group);
      return group;
    });
    svg.addEventListener("keydown", (e) => {
      if (e.key === "Enter" && pick && here >= 0) return pick(bins[here]);
      if (e.key !== "ArrowLeft" && e.key !== "ArrowRight") return undefined;
      e.preventDefault();
      e.stopPropagation();
      if (here >= 0) groups[here].classList.remove("here");
      here = Math.max(0, Math.min(bins.length - 1, here + (e.key === "ArrowRight" ? 1 : -1)));
      groups[here].classList.add("here");
      const box = groups[here].getBoundingClientRect();
      return point(words.tip(bins[here]), box.x, box.y);
    });
    svg.addEventListener("blur", () => { unpoint(); if (here >= 0) groups[here].classList.remove("here"); here = -1; });
    return svg;
  }

  function bars(rows) {
    const most = Math.max(1, ...rows.map((r) => r[1]));
    const list = make("div", { class: "rows" });
    for (const [name, n] of rows) {
      const fill = make("div", { class: "fill" });
      fill.style.width = `${(100 * n) / most}%`;
      list.append(make("span", {}, name), make("div", { class: "track" }, fill), make("span", { class: "count" }, count(n)));
    }
    return list;
  }

  function table(heads, rows) {
    const head = make("tr", {}, ...heads.map(([text, kind]) => make("th", { scope: "col", class: kind }, text)));
    const body = rows.map((row) => make("tr", {}, ...row.map((cell, i) => make("td", { class: heads[i][1] }, cell))));
    return make("div", { class: "scroll", tabindex: 0 }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  }

  // header, tiles, figures

  $("brand").textContent = `Noiseweave ${data.noiseweave} · ${data.job}`;
  $("name").textContent = data.name;
  $("unfinished").hidden = data.ended;
  for (const tile of data.tiles) {
    if (tile.value === null || tile.value === undefined) continue;
    $("tiles").append(make("div", { class: tile.bad ? "tile bad" : "tile" }, make("dt", {}, tile.label),
      make("dd", { class: "value" }, tile.unit === "seconds" ? seconds(tile.value) : count(tile.value)), tile.note ? make("dd", { class: "about" }, tile.note) : null));
  }

  function figures() {
    const charts = $("charts");
    if (data.similarity) {
      const [one] = data.similarity.bins, wide = one.to - one.from;
      const near = (x) => x.toFixed(wide > 0.0095 ? 2 : wide > 0.00095 ? 3 : 4);
      charts.append(panel("Similarity of the parents", histogram("Similarity of the parents", data.similarity.bins, {
        edge: true, tick: (b) => near(b.from), tip: (b) => `${near(b.from)} to ${near(b.to)}: ${count(b.n)} ${b.n === 1 ? "picture" : "pictures"}`,
      }, (b) => { set("low", b.from); set("high", b.to); filter(); $("gallery").scrollIntoView(); }),
      make("p", { class: "about" }, "Of all that were kept. A bar picks its range in the gallery.")));
    }
    if (data.uses) {
      const more = data.uses.more, named = (b) => (b.from === more ? `${more}+` : String(b.from));
      const part = data.uses.part < 1 ? `Of a random ${(100 * data.uses.part).toPrecision(2)} % of the images.` : "Of all images.";
      const title = "Kept pictures per input image";
      charts.append(panel(title, histogram(title, data.uses.bins, {
        tick: named, tip: (b) => `parent of ${named(b)}: ${count(b.n)} ${b.n === 1 ? "image" : "images"}`,
      }), make("p", { class: "about" }, part)));
    }
    for (const one of data.counts) {
      $("counts").append(panel(one.title, bars(one.rows), one.others ? make("p", { class: "about" }, `and ${count(one.others)} others`) : null));
    }
    for (const sheet of data.sheets) $("sheets").append(panel(sheet.title, make("img", { class: "sheet exact", src: sheet.picture, alt: sheet.title })));
    $("figures").hidden = !document.querySelector("#figures .panel");
  }

  // gallery: one page of cards is in the document at a time

  let applied = "", fits = gallery.cards.map((_, i) => i), page = 0;
  const distinct = (list) => [...new Set(list)].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const modes = distinct(gallery.cards.map((c) => c.mode).filter((m) => m !== null));
  const field = (name) => $("filters").elements.namedItem(name);
  const set = (name, value) => { if (field(name)) field(name).value = value; };

  function chooser(name, label, values) {
    if (values.length < 2) return;
    const options = values.map((v) => make("option", { value: v }, v));
    $("filters").append(make("label", {}, label, make("select", { name }, make("option", { value: "" }, "all"), ...options)));
  }

  function filters() {
    const cards = gallery.cards, form = $("filters");
    chooser("mode", "Mode", modes);
    chooser("class", "Class", distinct(cards.flatMap((c) => c.classes)));
    if (data.similarity) {
      const [low, high] = [data.similarity.bins[0].from, data.similarity.bins.at(-1).to];
      const edge = (name, label, hint) => make("input", { type: "number", name, step: "any", min: -1, max: 1, placeholder: hint, "aria-label": label });
      form.append(make("fieldset", {}, make("legend", {}, "Similarity"),
        make("span", { class: "pair" }, edge("low", "Similarity from", low), "to", edge("high", "Similarity to", high))));
    }
    chooser("verdict", "Verdict", distinct(cards.map((c) => c.verdict)));
    form.append(make("label", {}, "Key or caption", make("input", { type: "search", name: "text", autocomplete: "off" })));
    form.append(make("button", { type: "reset" }, "Clear"));
    for (const event of ["input", "change"]) form.addEventListener(event, filter);
    form.addEventListener("reset", () => setTimeout(filter));
    form.addEventListener("submit", (e) => e.preventDefault());
    form.hidden = cards.length < 2;
  }

  function filter() {
    const value = (name) => (field(name) ? field(name).value : "");
    const asked = JSON.stringify([...new FormData($("filters"))]);
    if (asked === applied) return; // a field that loses its focus says "change" once more, in the middle of a click
    applied = asked;
    const mode = value("mode"), kind = value("class"), verdict = value("verdict");
    const text = value("text").toLowerCase();
    const low = value("low") === "" ? -Infinity : Number(value("low")), high = value("high") === "" ? Infinity : Number(value("high"));
    const wide = low === -Infinity && high === Infinity;
    fits = [];
    gallery.cards.forEach((c, i) => {
      if (mode && c.mode !== mode) return;
      if (kind && !c.classes.includes(kind)) return;
      if (verdict && c.verdict !== verdict) return;
      if (!wide && !(c.similarity !== null && c.similarity >= low && c.similarity <= high)) return;
      if (text && !`${c.key}\n${c.caption || ""}`.toLowerCase().includes(text)) return;
      fits.push(i);
    });
    turn(0);
  }

  function picture(number, alt, main) {
    const uri = number === null ? undefined : gallery.pictures[number];
    if (!uri) return make("span", { class: "gone", role: "img", "aria-label": `${alt}: not there` }, "not there");
    const kind = [main ? "main" : "", uri.startsWith("data:image/png") ? "exact" : ""].join(" ").trim();
    return make("img", { src: uri, alt, class: kind || null });
  }

  function card(i) {
    const c = gallery.cards[i];
    const strip = make("span", { class: "strip" }, ...c.pictures.map((p, n) => picture(p, gallery.roles[n], n === gallery.main)));
    const says = make("span", { class: "says" });
    const badge = c.verdict === "kept" ? null : make("span", { class: "badge" }, c.verdict);
    says.append(make("span", { class: "first" }, make("b", {}, modes.length > 1 ? show(c.mode) : c.key), badge));
    if (c.ratio !== null) says.append(make("span", {}, `ratio ${c.ratio.toFixed(2)}`));
    if (c.similarity !== null) says.append(make("span", {}, `sim. ${c.similarity.toFixed(3)}`));
    if (c.classes.length) says.append(make("span", {}, `class ${c.classes.join(" + ")}`));
    if (c.caption) says.append(make("span", { class: "caption" }, c.caption));
    const button = make("button", { type: "button", class: "card", "aria-label": `${c.key}: show where it comes from` }, strip, says);
    button.addEventListener("click", () => open(fits.indexOf(i)));
    return make("li", {}, button);
  }

  function turn(to) {
    const pages = Math.max(1, Math.ceil(fits.length / PAGE));
    page = Math.max(0, Math.min(pages - 1, to));
    const here = fits.slice(page * PAGE, (page + 1) * PAGE);
    $("cards").replaceChildren(...here.map(card));
    $("nothing").hidden = fits.length > 0;
    for (const id of ["pager-top", "pager-bottom"]) pager($(id), pages);
  }

  const TURNS = [["«", "First page", () => 0], ["‹", "Previous page", () => page - 1], ["›", "Next page", () => page + 1], ["»", "Last page", (pages) => pages - 1]];
  function pager(box, pages) {
    if (!box.firstChild) {
      box.append(make("span", { class: "where", "aria-live": box.id === "pager-top" ? "polite" : null }));
      TURNS.forEach(([sign, label, to]) => {
        const button = make("button", { type: "button", "aria-label": label }, sign);
        button.addEventListener("click", () => { turn(to(Math.ceil(fits.length / PAGE))); if (box.id === "pager-bottom") $("gallery").scrollIntoView(); });
        box.append(button);
      });
    }
    const first = page * PAGE + 1, last = Math.min(fits.length, first + PAGE - 1);
    box.firstChild.textContent = fits.length ? `${count(first)}–${count(last)} of ${count(fits.length)}` : "0 samples";
    const buttons = box.querySelectorAll("button");
    buttons[0].disabled = buttons[1].disabled = page === 0;
    buttons[2].disabled = buttons[3].disabled = page >= pages - 1;
    box.hidden = gallery.cards.length < 2 || (box.id === "pager-bottom" && pages < 2);
  }

  // lineage of one sample

  let opened = -1;
  const dialog = $("detail");

  function lineage(value, prefix) {
    return Object.entries(value).flatMap(([name, inner]) => {
      if (name === "parents" && Array.isArray(inner)) return [];
      const plain = inner !== null && typeof inner === "object" && !Array.isArray(inner);
      if (plain) return lineage(inner, `${prefix}${name}.`);
      return [make("dt", {}, prefix + name), make("dd", {}, Array.isArray(inner) ? JSON.stringify(inner) : show(inner))];
    });
  }

  const named = (label) => (Number.isInteger(label) && data.class_names[label]) || label;

  function role(c, n) {
    const parents = Array.isArray(c.lineage.parents) ? c.lineage.parents : [];
    const parent = parents[n > gallery.main ? n - 1 : n];
    if (n === gallery.main || !parent) return gallery.roles[n];
    const label = parent.label === null || parent.label === undefined ? "" : `, class ${named(parent.label)}`;
    return `${gallery.roles[n]}: ${parent.key}${label}, weight ${show(parent.weight)}, in ${parent.shard}`;
  }

  function open(at) {
    opened = Math.max(0, Math.min(fits.length - 1, at));
    const c = gallery.cards[fits[opened]];
    $("detail-title").textContent = c.key;
    $("before").disabled = opened === 0;
    $("after").disabled = opened === fits.length - 1;
    const big = make("div", { class: c.pictures.length > 1 ? "big" : "big one" }, ...c.pictures.map((p, n) =>
      make("figure", {}, picture(p, gallery.roles[n], false), make("figcaption", {}, role(c, n)))));
    const raw = make("details", {}, make("summary", {}, "As JSON"), make("pre", { tabindex: 0 }, JSON.stringify(c.lineage, null, 1)));
    $("detail-body").replaceChildren(big, c.caption ? make("p", {}, c.caption) : "",
      make("dl", { class: "lineage" }, make("dt", {}, "verdict"), make("dd", {}, c.verdict),
        make("dt", {}, "class"), make("dd", {}, show(c.classes.join(" + "))), ...lineage(c.lineage, "")), raw);
    if (!dialog.open) dialog.showModal();
  }

  $("before").addEventListener("click", () => open(opened - 1));
  $("after").addEventListener("click", () => open(opened + 1));
  $("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (e) => { if (e.target === dialog) dialog.close(); });
  document.addEventListener("keydown", (e) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    if (!step || e.altKey || e.ctrlKey || e.metaKey || /^(INPUT|SELECT|TEXTAREA|PRE)$/.test(e.target.tagName)) return;
    if (dialog.open) open(opened + step);
    else turn(page + step);
  });

  // time, quarantine, parameters

  function time() {
    const most = Math.max(...data.stages.map((s) => s.seconds), 0);
    const stages = data.stages.map((s) => {
      const parts = make("div", { class: "parts" });
      for (const name of ["fetch", "compute", "commit"]) {
        const bit = make("i", { class: name });
        bit.style.width = `${most ? (100 * (s.spent[name] || 0)) / most : 0}%`;
        parts.append(bit);
      }
      const told = ["fetch", "compute", "commit"].map((n) => (n in s.spent ? `${n} ${seconds(s.spent[n])}` : "")).filter(Boolean).join(", ");
      if (told) parts.setAttribute("aria-label", told);
      if (told) parts.setAttribute("role", "img");
      parts.addEventListener("pointermove", (e) => { if (told) point(told, e.clientX, e.clientY); });
      parts.addEventListener("pointerleave", unpoint);
      return [s.name, count(s.units), `${count(s.produced)} ${s.noun}`, seconds(s.wall), seconds(s.seconds), parts,
        pace(s.produced, s.spent.compute || s.seconds), s.slowest.unit ? `${seconds(s.slowest.seconds)} (${s.slowest.unit})` : "–"];
    });
    if (stages.length) {
      const heads = [["Stage"], ["Units", "n"], ["Made", "n"], ["Last run", "n"], ["Work", "n"], ["Fetch, compute, commit", "part"], ["Pace", "n"], ["Slowest unit", "n"]];
      const told = data.stages.some((s) => "compute" in s.spent); // what older versions wrote does not tell
      const without = (row) => (told ? row : row.filter((_, i) => i !== 5));
      const key = make("p", { class: "key" }, ...["fetch", "compute", "commit"].map((n) => make("span", {}, make("i", { class: n }), n)));
      $("stages").append(panel("Stages", table(without(heads), stages.map(without)), told ? key : null,
        make("p", { class: "about" }, "Last run: time on the clock of the run that ended last. Work: seconds of all units and workers, earlier runs counted in. Pace: made per second of computing.")));
    }
    if (data.workers.length) {
      const busiest = Math.max(...data.workers.map((w) => w.compute));
      $("workers").append(panel("Workers", table([["Stage"], ["Worker"], ["Units", "n"], ["Made", "n"], ["Computing", "n"], ["", "part"], ["Pace", "n"]],
        data.workers.map((w) => {
          const bit = make("i", { class: "compute" });
          bit.style.width = `${busiest ? (100 * w.compute) / busiest : 0}%`;
          return [w.stage, w.worker, count(w.units), count(w.produced), seconds(w.compute), make("div", { class: "parts" }, bit), pace(w.produced, w.compute)];
        }))));
    }
    $("time").hidden = !stages.length;
  }

  function quarantine() {
    const { total, reasons, rows } = data.quarantine;
    if (data.failed.length) $("bad").append(panel("Failed units", table([["Unit"], ["Error", "wide"]], data.failed.map((f) => [f.unit, f.error]))));
    if (total) {
      const rest = total > rows.length ? make("p", { class: "about" }, `The first ${count(rows.length)} of ${count(total)}; all are in quarantine.jsonl.`) : null;
      $("bad").append(panel("Reasons", bars(reasons)), panel("Left out", table(
        [["Reason"], ["Key"], ["Where"], ["Stage"], ["Detail", "wide"]],
        rows.map((r) => [r.reason, r.key, r.shard, r.phase, r.detail])), rest));
    }
    $("quarantine").hidden = !total && !data.failed.length;
  }

  function parameters() {
    const groups = new Map([["", []]]);
    for (const [name, value] of Object.entries(data.parameters)) {
      const dot = name.indexOf("."), group = dot < 0 ? "" : name.slice(0, dot);
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push([dot < 0 ? name : name.slice(dot + 1), value]);
    }
    for (const [group, rows] of groups) {
      if (!rows.length) continue;
      const list = rows.flatMap(([n, v]) => [make("dt", {}, n), make("dd", {}, Array.isArray(v) && v.every((x) => typeof x !== "object") ? show(v.join(", ")) : v !== null && typeof v === "object" ? JSON.stringify(v) : show(v))]);
      $("values").append(panel(group || "job", make("dl", {}, ...list)));
    }
    $("parameters").hidden = !$("values").firstChild;
  }

  const all = gallery.rejected ? `${count(gallery.total)} samples, ${count(gallery.rejected)} of them rejected` : `${count(gallery.total)} samples`;
  $("shown").textContent = gallery.cards.length < gallery.total
    ? `${count(gallery.cards.length)} of ${all} shown, spread evenly over all; rejected ones get a share of their own.`
    : gallery.total === 1 ? "One sample: click it for its lineage." : `${all}. Click one for its lineage; the arrow keys turn pages.`;
  if (gallery.absent) {
    const what = data.job === "augment" ? "parents" : "originals";
    $("absent").textContent = `${count(gallery.absent)} of ${count(gallery.cards.length)} samples are shown without their ${what}: they are not where the job read them`
      + (gallery.read_from ? ` (${gallery.read_from})` : "") + ". noiseweave report DIR --input FOLDER tells where they lie now.";
    $("absent").hidden = false;
  }
  $("cards").classList.toggle("single", gallery.roles.length === 1);
  if (!gallery.cards.length) $("nothing").textContent = gallery.total ? "No pictures were asked for." : "There are no samples.";
  figures();
  filters();
  turn(0);
  time();
  quarantine();
  parameters();
  for (const section of document.querySelectorAll("main section[aria-labelledby]")) {
    if (!section.hidden) $("nav").append(make("a", { href: `#${section.id}` }, section.querySelector("h2").textContent));
  }
})();
