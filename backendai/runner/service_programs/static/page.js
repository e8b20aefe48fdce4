// The page's side: binary messages are bytes of the terminal, text messages are [rows, columns].
"use strict";

const terminal = new Terminal({ cursorBlink: true, scrollback: 10000 });
const fit = new FitAddon.FitAddon();
const notice = document.getElementById("notice");
const encoder = new TextEncoder();
let socket = null;

terminal.loadAddon(fit);
terminal.open(document.getElementById("terminal"));
terminal.onData((text) => send(encoder.encode(text)));
terminal.onBinary((text) => send(Uint8Array.from(text, (c) => c.charCodeAt(0))));
terminal.onResize(({ rows, cols }) => send(JSON.stringify([rows, cols])));
window.addEventListener("resize", () => fit.fit());

function send(data) {
  if (socket !== null && socket.readyState === WebSocket.OPEN) {
    socket.send(data);
  }
}

function connect(pause) {
  const url = new URL("socket", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    pause = 500;
    notice.hidden = true;
    terminal.reset();
    fit.fit();
    send(JSON.stringify([terminal.rows, terminal.cols]));
    terminal.focus();
  };
  socket.onmessage = (message) => terminal.write(new Uint8Array(message.data));
  socket.onclose = (close) => {
    notice.hidden = false;
    if (close.code === 1000) {
      notice.textContent = "The shell has ended. Reload the page for another.";
    } else {
      notice.textContent = "Connection lost, trying again ...";
      setTimeout(() => connect(Math.min(pause * 2, 10000)), pause);
    }
  };
}

connect(500);
