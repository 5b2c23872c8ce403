const show = (id, text) => {
  document.getElementById(id).textContent = text;
};

/** A colour of its own for every city, the same on every visit. */
const hueOf = (colo) => 150 + ([...colo].reduce((sum, letter) => sum * 37 + letter.charCodeAt(0), 0) % 180);

async function where() {
  const began = performance.now();
  const answer = await (await fetch("/api/where")).json();
  show("rtt", `${(performance.now() - began).toFixed(1)} ms`);
  show("greeting", answer.greeting);
  show("city", answer.city);
  show("colo", answer.colo);
  show("country", answer.country);
  show("version", answer.version);
  document.title = `${answer.city} · ${answer.app}`;
  document.documentElement.style.setProperty("--hue", hueOf(answer.colo));
}

async function signature() {
  const answer = await (await fetch(`/api/sign?text=${encodeURIComponent("hello")}`)).json();
  show("signature", answer.signature ? `${answer.signature.slice(0, 24)}…` : answer.error);
}

async function streamed() {
  const bar = document.getElementById("bar");
  bar.style.width = "0";
  const chunks = 20;
  const reader = (await fetch(`/api/stream?chunks=${chunks}&every=50`)).body.getReader();
  for (let seen = 1; !(await reader.read()).done; seen += 1) {
    bar.style.width = `${(100 * seen) / chunks}%`;
  }
}

function socket() {
  const connection = new WebSocket(`${location.origin.replace(/^http/, "ws")}/ws`);
  let sent = 0;
  connection.addEventListener("message", ({ data }) => {
    if (sent === 0) {
      sent = performance.now();
      connection.send("ping");
    } else if (data === "ping") {
      show("socket", `echoed in ${(performance.now() - sent).toFixed(1)} ms`);
      connection.close(1000);
    }
  });
  connection.addEventListener("error", () => show("socket", "no connection"));
}

function ask() {
  for (const part of [where, signature, streamed]) {
    part().catch((error) => show("city", `no answer: ${error.message}`));
  }
  socket();
}

document.getElementById("again").addEventListener("click", ask);
ask();
