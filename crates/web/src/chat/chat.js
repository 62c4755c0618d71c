// The chat page. What a model says is put on the page as text, never as markup.
"use strict";

const $ = (id) => document.getElementById(id);
const el = (name, className, text) => {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

let setup = { sides: 1, converses: false, model: null, saves: null };
let turns = []; // {role, content}, as the model is given them
let running = null; // the AbortController of an answer in the making
let duel = null; // the pair that waits for a vote: {id, texts, answers}

const say = (text) => { $("status").textContent = text; };
const complain = (text) => {
  $("problem").textContent = text;
  $("problem").hidden = !text;
};

function busy(on) {
  $("stop").hidden = !on;
  $("go").hidden = on;
  for (const button of document.querySelectorAll(".acts button")) button.disabled = on;
}

function scrollDown() {
  window.scrollTo({ top: document.body.scrollHeight });
}
const atEnd = () => window.innerHeight + window.scrollY > document.body.scrollHeight - 80;

// A turn of the user, with the buttons that take it back.
function showUser(content, at) {
  const item = el("li", "user");
  item.append(el("p", "unseen", "You"));
  const text = el("div", "text", content);
  text.dir = "auto";
  const acts = el("div", "acts");
  const edit = el("button", "", "Edit");
  edit.type = "button";
  edit.addEventListener("click", () => editTurn(at));
  const again = el("button", "", "Again");
  again.type = "button";
  again.title = "Another answer";
  again.addEventListener("click", () => answerAgain(at));
  acts.append(edit, again);
  item.append(text, acts);
  item.dataset.at = at;
  $("turns").append(item);
}

function showAnswers() {
  const item = el("li");
  const box = el("div", setup.sides === 2 ? "answers two" : "answers");
  const answers = [];
  for (let side = 0; side < setup.sides; side++) {
    const answer = el("article", "answer card growing");
    const name = setup.sides === 2 ? ["Left", "Right"][side] : "Answer";
    answer.setAttribute("aria-label", name);
    const who = el("p", "who", name);
    const text = el("div", "text");
    text.dir = "auto";
    answer.append(who, text);
    box.append(answer);
    answers.push({ answer, who, text });
  }
  item.append(box);
  $("turns").append(item);
  return answers;
}

// Takes everything from the user's turn number `at` off the page and out of the conversation.
function cutBefore(at) {
  const items = [...$("turns").children];
  const first = items.findIndex((item) => Number(item.dataset.at) === at && item.dataset.at !== undefined);
  if (first >= 0) for (const item of items.slice(first)) item.remove();
  turns = turns.slice(0, at);
  closeVote();
}

function editTurn(at) {
  if (running) return;
  $("box").value = turns[at].content;
  cutBefore(at);
  say("Change the message and send it anew.");
  $("box").focus();
}

function answerAgain(at) {
  if (running) return;
  const content = turns[at].content;
  cutBefore(at);
  ask(content);
}

const lastUser = () => turns.findLastIndex((turn) => turn.role === "user");

// The data of each event of a response, as they come.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

async function problemOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

async function ask(content) {
  complain("");
  say("");
  closeVote();
  $("hint").textContent = "";
  const at = turns.length;
  turns.push({ role: "user", content });
  showUser(content, at);
  const answers = showAnswers();
  const texts = answers.map(() => "");
  const system = $("system").value.trim();
  const messages = setup.converses ? [...turns] : [turns[at]];
  if (system && setup.converses) messages.unshift({ role: "system", content: system });
  running = new AbortController();
  busy(true);
  scrollDown();
  let pair = null;
  let whole = false;
  try {
    const response = await fetch("/chat/say", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        messages,
        temperature: Number($("temperature").value),
        max_tokens: Number($("longest").value),
      }),
      signal: running.signal,
    });
    if (!response.ok) throw new Error(await problemOf(response));
    let open = answers.length;
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error);
      if (event.text !== undefined) {
        const stick = atEnd();
        texts[event.side] += event.text;
        answers[event.side].text.textContent = texts[event.side];
        if (stick) scrollDown();
      }
      if (event.end) {
        open -= 1;
        const { answer } = answers[event.side];
        answer.classList.remove("growing");
        if (event.end === "length") answer.append(el("p", "cut", "Cut off at the longest answer."));
      }
      if (event.duel !== undefined) pair = event;
    }
    whole = open === 0;
    if (!whole) throw new Error("the server ended before the answer did");
  } catch (error) {
    if (error.name === "AbortError") say("Stopped.");
    else complain(error instanceof TypeError ? "The server does not answer. Is it still running? Your message is kept." : error.message);
    if (texts.every((text) => text === "")) {
      // Nothing was said: the message goes back into the box.
      cutBefore(at);
      if (!$("box").value) $("box").value = content;
    }
  }
  for (const { answer } of answers) answer.classList.remove("growing");
  running = null;
  busy(false);
  if (turns.length > at) turns.push({ role: "assistant", content: texts[0] });
  if (whole && pair) {
    if (pair.duel) openVote(pair.duel, texts, answers);
    else say("Both answers are the same: there is nothing to choose.");
  } else if (whole) {
    say("Answered.");
  }
  if ($("vote").hidden) $("box").focus();
}

function openVote(id, texts, answers) {
  duel = { id, texts, answers };
  $("vote").hidden = false;
  $("form").hidden = true; // first the vote
  say("Both answers are there.");
  scrollDown();
  $("vote").querySelector("button").focus({ preventScroll: true });
}

function closeVote() {
  duel = null;
  $("vote").hidden = true;
  $("form").hidden = false;
}

async function vote(verdict) {
  if (!duel) return;
  const { id, texts, answers } = duel;
  if (verdict === "skip") {
    closeVote();
    say("No vote. The conversation goes on from the left answer.");
    $("box").focus();
    return;
  }
  duel = null; // a second key press votes on nothing
  try {
    const response = await fetch("/chat/vote", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ duel: id, verdict }),
    });
    if (!response.ok) throw new Error(await problemOf(response));
    const { models, kept } = await response.json();
    const better = { left: 0, right: 1 }[verdict];
    answers.forEach(({ answer, who }, side) => {
      who.textContent = `${["Left", "Right"][side]}: ${models[side]} `;
      if (side === better) {
        answer.classList.add("better");
        who.append(el("span", "outcome", "✓ better"));
      }
    });
    // The next two answers have the same conversation before them.
    if (better !== undefined) turns[turns.length - 1].content = texts[better];
    complain("");
    say(kept ? `Kept in ${setup.saves}.` : "Votes are not kept: start with --save FILE to keep them.");
    closeVote();
    $("box").focus();
  } catch (error) {
    complain(error instanceof TypeError ? "The server does not answer, so the vote is not kept yet. Try again." : error.message);
    duel = { id, texts, answers };
  }
}

function toggleKeys() {
  const open = $("keys").hidden;
  $("keys").hidden = !open;
  $("keys-button").setAttribute("aria-expanded", String(open));
}

function newChat() {
  if (running) running.abort();
  turns = [];
  $("turns").replaceChildren();
  closeVote();
  complain("");
  say("A new chat.");
  $("box").focus();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const content = $("box").value;
  if (running || !content.trim()) return;
  $("box").value = "";
  ask(content);
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", newChat);
$("keys-button").addEventListener("click", toggleKeys);
for (const button of document.querySelectorAll("[data-verdict]")) {
  button.addEventListener("click", () => vote(button.dataset.verdict));
}

$("box").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.key === "Escape") {
    if (running) running.abort();
    else document.activeElement?.blur();
    return;
  }
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName ?? "")) return;
  const verdict = { f: "left", ArrowLeft: "left", j: "right", ArrowRight: "right", t: "tie", b: "bad", s: "skip" }[event.key];
  const act =
    (duel && verdict && (() => vote(verdict))) ||
    { "?": toggleKeys, "/": () => $("box").focus(), e: () => lastUser() >= 0 && editTurn(lastUser()), r: () => lastUser() >= 0 && answerAgain(lastUser()) }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

fetch("/chat/setup")
  .then((response) => response.json())
  .then((found) => {
    setup = found;
    $("model").textContent = setup.model ?? (setup.sides === 2 ? "two answers, side by side, without names" : "");
    $("instructions").hidden = !setup.converses;
    for (const line of document.querySelectorAll(".of-two")) line.hidden = setup.sides < 2;
    $("hint").textContent = setup.converses
      ? ""
      : "This model has no chat template: it sees one message at a time and remembers nothing.";
  })
  .catch(() => complain("The server does not answer. Is it still running?"));
