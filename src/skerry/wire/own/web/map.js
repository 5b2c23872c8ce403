"use strict";
// The world map. Names come from customers: text is set as text, never as markup.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const POLL_MS = 5000, TIMEOUT_MS = 15000, NIGHT_MS = 60000, TAP_PX = 5, NEAR_PX = 24, ZOOM_MAX = 40, TOKEN = "skerry-token";
  const WORLD = { x: 180, y: 78, w: 360, h: 148 }; // centre and size in degrees: y = 90 - latitude
  const LIMITS_MS = [20, 50, 100, 200];
  const REGIONS = { weur: "Western Europe", eeur: "Eastern Europe", enam: "North America, east", wnam: "North America, west",
    sam: "South America", afr: "Africa", me: "Middle East", apac: "Asia-Pacific", oc: "Oceania", world: "The world" };
  const saidState = (site) => (STATES[site.state] || site.state) + (site.suspected ? `, suspected (φ ${site.phi.toFixed(1)})` : "");
  const STATES = { up: "up", draining: "draining", down: "does not answer", cut_off: "cut off from control" };
  const SHAPES = {
    up: "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", draining: "M-4-4h8v8h-8z", cut_off: "M0-6l6 6-6 6-6-6z",
    down: "M-5-3l2-2 3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3z", idle: "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    chosen: "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z", starting: "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
  };
  const at = (id) => document.getElementById(id);
  const svg = at("map");
  const view = { x: WORLD.x, y: WORLD.y, zoom: 1 };
  const marks = { sites: new Map(), metros: new Map() };
  let token = sessionStorage.getItem(TOKEN) || "";
  let world = null, onApp = null, asked = 0, timer = 0, seenMs = 0, skewMs = 0, legend = "";
  let chosen = { app: "", kind: "", id: "" };

  // -- elements ---------------------------------------------------------------------------------------------------------
  function el(name, attributes = {}, ...inside) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...inside.filter((item) => item !== null && item !== undefined).map((item) => (item instanceof Node ? item : String(item))));
    return made;
  }
  function set(node, key, value) {
    if (node.getAttribute(key) !== value) node.setAttribute(key, value);
  }
  const number = (value) => value.toLocaleString("en");
  const short = (value) => (value === null ? "–" : value < 10 ? value.toFixed(1) : String(Math.round(value)));
  const rate = (value) => (value < 100 ? String(Number(value.toPrecision(3))) : number(Math.round(value)));
  const ms = (value) => (value === null ? "–" : `${short(value)} ms`);
  const many = (count, one, more) => `${number(count)} ${count === 1 ? one : more}`;
  const people = (users) => (users >= 1e8 ? `${number(Math.round(users / 1e6))} M` : users >= 1e6 ? `${(users / 1e6).toFixed(1)} M` : `${Math.round(users / 1e3)} k`);
  function table(caption, head, rows) {
    const cells = (row, name) => el("tr", {}, ...row.map((cell, index) => el(index ? name : "th", index ? {} : { scope: name === "th" ? "col" : "row" }, cell)));
    return el("table", {}, el("caption", { class: "soft" }, caption), el("thead", {}, cells(head, "th")), el("tbody", {}, ...rows.map((row) => cells(row, "td"))));
  }
  function facts(pairs) {
    return el("dl", {}, ...pairs.filter(([, value]) => value !== null).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  }
  const lines = (texts) => el("ul", {}, ...texts.map((text) => el("li", {}, text)));
  function fill(select, groups, value) {
    const wanted = JSON.stringify(groups);
    if (select.dataset.filled !== wanted) {
      select.dataset.filled = wanted;
      const option = ([id, text]) => el("option", { value: id }, text);
      select.replaceChildren(...groups.flatMap(([label, options]) => (label ? [el("optgroup", { label }, ...options.map(option))] : options.map(option))));
    }
    select.value = value;
  }

  // -- asking control ---------------------------------------------------------------------------------------------------
  async function ask(path) {
    const answer = await fetch(path, {
      headers: { authorization: `Bearer ${token}` }, cache: "no-store", credentials: "omit", redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const body = await answer.json().catch(() => ({}));
    if (answer.ok) return body;
    throw Object.assign(new Error((body.error && body.error.message) || `error ${answer.status}`), { status: answer.status });
  }
  const path = (key, tail) => key.split("/").map(encodeURIComponent).join("/") + tail;

  async function refresh() {
    clearTimeout(timer);
    const turn = ++asked;
    try {
      const app = chosen.app;
      const [next, nextApp] = await Promise.all([ask("/v1/map"), app ? ask(`/v1/map/${path(app, "")}`).catch(gone) : null]);
      if (turn !== asked) return;
      [world, onApp, seenMs, skewMs] = [next, nextApp, Date.now(), next.now_ms - Date.now()];
      draw();
    } catch (error) {
      if (turn !== asked) return;
      if (error.status === 401 || error.status === 403) return leave(error.message);
      if (!world) return leave(`Control does not answer: ${error.message}`);
      news(`No answer for ${Math.round((Date.now() - seenMs) / 1000)} s (${error.message}); what you see is old.`, true);
    }
    if (!document.hidden) timer = setTimeout(refresh, POLL_MS);
  }
  function gone(error) { // the app was deleted: that is told, and the map goes on
    if (error.status !== 404) throw error;
    return null;
  }
  function news(text, bad = false) {
    at("news").className = bad ? "bad" : "";
    if (at("news").textContent !== text) at("news").textContent = text;
  }

  // -- the token --------------------------------------------------------------------------------------------------------
  function leave(why) {
    clearTimeout(timer);
    asked++;
    token = "";
    world = onApp = null;
    sessionStorage.removeItem(TOKEN);
    at("shown").hidden = at("leave").hidden = true;
    at("summary").textContent = "";
    news("");
    at("ask").hidden = false;
    at("refused").textContent = why;
    at("token").value = "";
    at("token").focus();
  }
  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    token = at("token").value.trim();
    if (!/^[\x21-\x7e]+$/.test(token)) return leave("A token has no spaces and no letters with accents.");
    sessionStorage.setItem(TOKEN, token);
    return refresh();
  });
  at("leave").addEventListener("click", () => leave(""));

  // -- drawing ----------------------------------------------------------------------------------------------------------
  const x = (lon) => lon + 180, y = (lat) => 90 - lat;
  const level = (rtt) => (rtt === null ? 5 : LIMITS_MS.filter((limit) => rtt >= limit).length);

  function draw() {
    at("ask").hidden = true;
    at("shown").hidden = at("leave").hidden = false;
    const up = world.sites.filter((site) => site.state === "up").length;
    at("summary").textContent = `${up} of ${many(world.sites.length, "city", "cities")} up, ${many(world.apps_total, "app", "apps")}`;
    news(`Live, ${new Date(world.now_ms).toISOString().slice(11, 19)} UTC`);
    drawChoices();
    drawMarks();
    drawLegend();
    drawNight();
    drawApp();
    drawPicked();
    look();
  }
  function drawChoices() {
    const apps = world.apps.map((app) => [`${app.account_name}/${app.app}`, `${app.account_name}/${app.app} (${many(app.sites, "city", "cities")})`]);
    const more = world.apps_total - apps.length;
    const first = [["", more ? `No app (${number(more)} more are not listed)` : "No app"]];
    if (chosen.app && !apps.some(([id]) => id === chosen.app)) first.push([chosen.app, `${chosen.app} (deleted)`]);
    fill(at("app"), [["", first], ...(apps.length ? [["Apps", apps]] : [])], chosen.app);
    const groups = new Map();
    for (const site of [...world.sites].sort((a, b) => a.city.localeCompare(b.city))) {
      const text = `${site.city} (${site.site})${site.state === "up" && !site.suspected ? "" : `: ${saidState(site)}`}`;
      groups.set(site.region, [...(groups.get(site.region) || []), [site.site, text]]);
    }
    const named = [...groups].map(([region, options]) => [REGIONS[region] || region, options]).sort(([a], [b]) => a.localeCompare(b));
    fill(at("site"), [["", [["", "No city"]]], ...named], chosen.kind === "site" ? chosen.id : "");
  }
  function kindOf(site, copies) {
    if (site.state !== "up") return site.state in SHAPES ? site.state : "down";
    if (!chosen.app) return "up";
    const held = copies.get(site.site);
    return !held ? "idle" : held.serving ? "chosen" : "starting";
  }
  function drawMarks() {
    const copies = new Map((onApp ? onApp.copies : []).map((held) => [held.site, held]));
    keep("sites", world.sites, (site) => site.site, (mark, site) => {
      const kind = kindOf(site, copies);
      set(mark, "d", SHAPES[kind]);
      set(mark, "class", `mark ${kind}`);
      return `${site.city} (${site.site}): ${saidState(site)}`;
    });
    keep("metros", onApp ? onApp.metros : [], (metro) => metro.metro, (mark, metro) => {
      const r = Math.max(2, Math.sqrt(metro.users * metro.activity) / 420).toFixed(1);
      set(mark, "d", `M-${r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0-${2 * r} 0z`);
      set(mark, "class", `metro l${level(metro.rtt_ms)}`);
      return `Users near ${metro.city}: ${metro.rtt_ms === null ? "not served" : `${ms(metro.rtt_ms)} from ${metro.site}`}`;
    });
  }
  function keep(layer, items, key, update) {
    const known = marks[layer], left = new Set(known.keys());
    for (const item of items) {
      const id = key(item);
      left.delete(id);
      let mark = known.get(id);
      if (!mark) {
        mark = { node: document.createElementNS(SVG, "path"), title: document.createElementNS(SVG, "title") };
        mark.node.append(mark.title);
        at(layer).append(mark.node);
        known.set(id, mark);
      }
      mark.item = item;
      const title = update(mark.node, item);
      if (mark.title.textContent !== title) mark.title.textContent = title;
    }
    for (const id of left) {
      known.get(id).node.remove();
      known.delete(id);
    }
  }
  function drawLegend() {
    const states = [...new Set(world.sites.map((site) => site.state))].filter((state) => state !== "up");
    const entry = (kind, text, shape) => [`mark ${kind}`, shape || SHAPES[kind], text];
    const app = [entry("chosen", "serves the app"), entry("starting", "has it, not ready"), entry("idle", "does not have it")];
    const near = ["under 20 ms", "20–50", "50–100", "100–200", "200 and more", "not served"];
    const served = near.slice(0, onApp && onApp.world.mean_ms === null ? 6 : 5).map((text, index) => [`metro l${index}`, SHAPES.up, index ? text : `users ${text}`]);
    const entries = [...(chosen.app ? app : [entry("up", "up")]), ...states.map((state) => entry(state in SHAPES ? state : "down", STATES[state] || state)), ...(onApp ? served : [])];
    if (legend === (legend = JSON.stringify(entries))) return;
    at("legend").replaceChildren(...entries.map(([kind, d, text]) => {
      const picture = document.createElementNS(SVG, "svg"), shape = document.createElementNS(SVG, "path");
      picture.setAttribute("viewBox", "-8 -8 16 16");
      picture.setAttribute("aria-hidden", "true");
      shape.setAttribute("d", d);
      shape.setAttribute("class", kind);
      picture.append(shape);
      return el("li", {}, picture, text);
    }));
  }
  function drawNight() {
    // Declination and equation of time after Spencer (1971), good to a quarter of a degree.
    const now = new Date(Date.now() + skewMs);
    const hours = now.getUTCHours() + now.getUTCMinutes() / 60;
    const day = (now - Date.UTC(now.getUTCFullYear(), 0, 1)) / 86400000;
    const g = (2 * Math.PI * day) / 365, sin = Math.sin, cos = Math.cos;
    const tilt = 0.006918 - 0.399912 * cos(g) + 0.070257 * sin(g) - 0.006758 * cos(2 * g) + 0.000907 * sin(2 * g) - 0.002697 * cos(3 * g) + 0.00148 * sin(3 * g);
    const minutes = 229.18 * (0.000075 + 0.001868 * cos(g) - 0.032077 * sin(g) - 0.014615 * cos(2 * g) - 0.040849 * sin(2 * g));
    const noon = (12 - hours - minutes / 60) * 15, safe = Math.abs(tilt) < 1e-4 ? 1e-4 : tilt;
    const edge = [];
    for (let lon = -180; lon <= 180; lon += 2) edge.push(`${x(lon)} ${y((Math.atan(-cos(((lon - noon) * Math.PI) / 180) / Math.tan(safe)) * 180) / Math.PI).toFixed(1)}`);
    const pole = safe > 0 ? 400 : -220; // far beyond what any window shows
    set(at("night"), "d", `M0 ${pole}L${edge.join("L")}L360 ${pole}z`);
  }
  setInterval(() => world && drawNight(), NIGHT_MS);

  // -- the panel --------------------------------------------------------------------------------------------------------
  function drawApp() {
    const panel = at("of-app");
    panel.hidden = !chosen.app;
    if (!chosen.app) return;
    if (!onApp) return panel.replaceChildren(el("h2", {}, chosen.app), el("p", {}, "There is no such app any more."));
    const listed = world.apps.find((app) => `${app.account_name}/${app.app}` === chosen.app);
    const total = (key) => onApp.copies.reduce((sum, held) => sum + held[key], 0);
    const where = onApp.copies.filter((held) => held.serving).map((held) => held.site);
    const link = /^https?:/.test(onApp.url) ? el("a", { href: onApp.url, rel: "noreferrer", target: "_blank" }, onApp.url) : onApp.url;
    const rows = [...onApp.regions, onApp.world].map((row) => [REGIONS[row.region] || row.region, people(row.users), short(row.mean_ms), short(row.p50_ms), short(row.p95_ms)]);
    const scrolled = panel.scrollTop;
    panel.replaceChildren(
      el("h2", {}, chosen.app),
      facts([["address", link], ["rollout", listed ? listed.rollout.replace("_", " ") : null],
        ["copies", `${total("serving")} of ${total("instances")} serve, in ${many(where.length, "city", "cities")}`],
        ["users", `${rate(onApp.asked.reduce((sum, city) => sum + city.rps, 0))} requests/s${onApp.asked.length ? `: ${busiest(onApp.asked)}` : ""}`],
        ["cities", where.length ? where.slice(0, 60).join(" ") + (where.length > 60 ? ` and ${where.length - 60} more` : "") : "none"]]),
      table("Round trips of users at this hour, in ms (modelled)", ["region", "users", "mean", "p50", "p95"], rows),
    );
    panel.scrollTop = scrolled;
  }
  function busiest(asked) {
    const first = [...asked].sort((a, b) => b.rps - a.rps).slice(0, 8).map((city) => `${city.site} ${rate(city.rps)}`);
    return first.join(", ") + (asked.length > first.length ? ` and ${asked.length - first.length} more` : "");
  }
  let drawnPicked = "", explained = { key: "", said: null };
  function drawPicked() {
    const panel = at("of-site");
    const mark = chosen.id ? marks[`${chosen.kind}s`].get(chosen.id) : null;
    set(at("ring"), "visibility", mark ? "visible" : "hidden");
    const parts = !mark ? overview() : chosen.kind === "site" ? ofSite(mark.item) : ofMetro(mark.item);
    const wanted = parts.map((part) => part.outerHTML).join("");
    if (wanted === drawnPicked) return;
    drawnPicked = wanted;
    panel.replaceChildren(...parts);
  }
  function overview() {
    const odd = world.sites.filter((site) => site.state !== "up" || site.suspected);
    const shown = odd.slice(0, 20).map((site) => `${site.city} (${site.site}): ${saidState(site)}`);
    if (odd.length > shown.length) shown.push(`and ${odd.length - shown.length} more`);
    return [...(odd.length ? [el("h2", {}, "Not up"), lines(shown)] : []),
      el("p", { class: "soft" }, chosen.app ? "Choose a city, here or on the map, to see why the app runs there, or why not." : "Choose an app to see where it runs and how far its users are.")];
  }
  function ofMetro(metro) {
    return [el("h2", {}, `Users near ${metro.city}`), facts([["country", metro.country], ["users", people(metro.users)],
      ["this hour", `${metro.activity.toFixed(2)} × the mean of their day`], ["served from", metro.site || "nowhere"], ["round trip", `${ms(metro.rtt_ms)} (modelled)`]])];
  }
  function ofSite(site) {
    const seen = site.seen_ms ? `${new Date(site.seen_ms).toISOString().slice(0, 19).replace("T", " ")} UTC` : "never";
    const parts = [el("h2", {}, `${site.city} (${site.site})`), facts([["state", saidState(site)], ["country", site.country],
      ["nodes", `${site.nodes_up} of ${site.nodes} up`], ["address", site.address], ["last report", site.state === "up" ? null : seen]])];
    if (!chosen.app) return parts;
    explainSite(site.site);
    const said = explained.key === `${chosen.app} ${site.site}` ? explained.said : null;
    if (!said) return [...parts, el("p", { class: "soft" }, "Asking why…")];
    if (said.failed) return [...parts, el("p", {}, said.failed)];
    for (const verdict of said.verdicts.filter((item) => item.site === site.site)) parts.push(el("h2", {}, verdict.chosen ? `Why ${said.app} runs here` : `Why ${said.app} does not run here`), lines(verdict.reasons));
    if (said.nodes.length) parts.push(el("details", {}, el("summary", {}, many(said.nodes.length, "node", "nodes")), lines(said.nodes.map((node) => `${node.node}: ${node.reasons.join("; ")}`))));
    return parts;
  }
  let askedMs = 0, askedKey = "";
  async function explainSite(site) {
    const key = `${chosen.app} ${site}`;
    if (askedKey === key && Date.now() - askedMs < POLL_MS - 500) return;
    [askedKey, askedMs] = [key, Date.now()];
    let said;
    try {
      said = await ask(`/v1/apps/${path(chosen.app, "")}/explain?site=${encodeURIComponent(site)}`);
    } catch (error) {
      said = { failed: error.message };
    }
    if (askedKey !== key || !world) return;
    explained = { key, said };
    drawPicked();
  }

  // -- choosing ---------------------------------------------------------------------------------------------------------
  function choose(change) {
    const other = "app" in change && change.app !== chosen.app;
    chosen = { ...chosen, ...change };
    if (other) {
      onApp = null;
      if (chosen.kind === "metro") chosen.kind = chosen.id = "";
      refresh();
    } else draw();
  }
  at("app").addEventListener("change", () => choose({ app: at("app").value }));
  at("site").addEventListener("change", () => {
    choose({ kind: at("site").value ? "site" : "", id: at("site").value });
    const site = world.sites.find((item) => item.site === chosen.id);
    if (site && view.zoom > 1) move(x(site.lon), y(site.lat), view.zoom);
  });
  function pick(clientX, clientY) {
    const box = svg.getBoundingClientRect(), step = unitsPerPx();
    const there = { x: view.x + (clientX - box.left - box.width / 2) * step, y: view.y + (clientY - box.top - box.height / 2) * step };
    let best = { away: NEAR_PX * step, kind: "", id: "" };
    for (const [layer, kind, handicap] of [["sites", "site", 0], ["metros", "metro", 4 * step]]) {
      for (const [id, mark] of marks[layer]) {
        const away = Math.hypot(x(mark.item.lon) - there.x, y(mark.item.lat) - there.y) + handicap;
        if (away < best.away) best = { away, kind, id };
      }
    }
    choose({ kind: best.kind, id: best.id });
  }

  // -- moving and zooming -----------------------------------------------------------------------------------------------
  const unitsPerPx = () => WORLD.w / view.zoom / (svg.clientWidth || 1);
  function move(toX, toY, zoom) {
    view.zoom = Math.min(ZOOM_MAX, Math.max(1, zoom));
    const halfX = WORLD.w / view.zoom / 2, halfY = (unitsPerPx() * svg.clientHeight) / 2;
    const clamp = (value, middle, room) => (room <= 0 ? middle : Math.min(middle + room, Math.max(middle - room, value)));
    view.x = clamp(toX, WORLD.x, WORLD.w / 2 - halfX);
    view.y = clamp(toY, WORLD.y, WORLD.h / 2 - halfY);
    look();
  }
  let looking = 0;
  function look() {
    cancelAnimationFrame(looking);
    looking = requestAnimationFrame(() => {
      const step = unitsPerPx(), w = step * svg.clientWidth, h = step * svg.clientHeight;
      if (!w || !h) return;
      svg.setAttribute("viewBox", `${view.x - w / 2} ${view.y - h / 2} ${w} ${h}`);
      svg.style.touchAction = view.zoom > 1 ? "none" : "pan-y";
      const k = step * Math.min(1.6, (0.85 + 0.12 * view.zoom) * Math.min(1, Math.max(0.6, svg.clientWidth / 800)));
      for (const layer of Object.values(marks)) for (const { node, item } of layer.values()) set(node, "transform", `translate(${x(item.lon)} ${y(item.lat)}) scale(${k.toFixed(4)})`);
      const mark = chosen.id ? marks[`${chosen.kind}s`].get(chosen.id) : null;
      if (mark) set(at("ring"), "transform", `translate(${x(mark.item.lon)} ${y(mark.item.lat)}) scale(${k.toFixed(4)})`);
    });
  }
  function zoomAt(clientX, clientY, factor) {
    const box = svg.getBoundingClientRect(), step = unitsPerPx();
    const awayX = (clientX - box.left - box.width / 2) * step, awayY = (clientY - box.top - box.height / 2) * step;
    const zoom = Math.min(ZOOM_MAX, Math.max(1, view.zoom * factor)), left = 1 - view.zoom / zoom;
    move(view.x + awayX * left, view.y + awayY * left, zoom);
  }
  const fingers = new Map();
  let moved = 0;
  const spanOf = () => { const [a, b] = [...fingers.values()]; return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, wide: Math.hypot(a.x - b.x, a.y - b.y) || 1 }; };
  svg.addEventListener("pointerdown", (event) => {
    if (!fingers.size) moved = 0;
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    svg.setPointerCapture(event.pointerId);
  });
  svg.addEventListener("pointermove", (event) => {
    const finger = fingers.get(event.pointerId);
    if (!finger) return;
    const before = fingers.size === 2 ? spanOf() : null, dx = event.clientX - finger.x, dy = event.clientY - finger.y;
    moved += Math.hypot(dx, dy);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (before) {
      const after = spanOf();
      zoomAt(after.x, after.y, after.wide / before.wide);
    } else if (fingers.size === 1 && moved > TAP_PX) move(view.x - dx * unitsPerPx(), view.y - dy * unitsPerPx(), view.zoom);
  });
  svg.addEventListener("pointerup", (event) => {
    if (fingers.delete(event.pointerId) && !fingers.size && moved <= TAP_PX) pick(event.clientX, event.clientY);
  });
  svg.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));
  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(event.clientX, event.clientY, Math.exp(-event.deltaY / 300));
  }, { passive: false });
  svg.addEventListener("keydown", (event) => {
    const far = 60 * unitsPerPx();
    const to = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] }[event.key];
    if (to) move(view.x + to[0], view.y + to[1], view.zoom);
    else if (event.key === "+" || event.key === "=") move(view.x, view.y, view.zoom * 1.5);
    else if (event.key === "-") move(view.x, view.y, view.zoom / 1.5);
    else if (event.key === "0") move(WORLD.x, WORLD.y, 1);
    else return;
    event.preventDefault();
  });
  at("nearer").addEventListener("click", () => move(view.x, view.y, view.zoom * 1.5));
  at("farther").addEventListener("click", () => move(view.x, view.y, view.zoom / 1.5));
  at("all").addEventListener("click", () => move(WORLD.x, WORLD.y, 1));
  new ResizeObserver(() => world && move(view.x, view.y, view.zoom)).observe(svg);
  document.addEventListener("visibilitychange", () => !document.hidden && token && refresh());

  if (token) refresh();
  else leave("");
})();
