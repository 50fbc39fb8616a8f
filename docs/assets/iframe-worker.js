/* Browsers start no workers for a page that was opened from a disk, and the site's search is one. There, a hidden
   frame stands in for it: the script runs in the frame, and messages pass as events instead of between threads. */
"use strict";

class FrameWorker extends EventTarget {
  constructor(url) {
    super();
    this.element = document.createElement("iframe");
    this.element.hidden = true;
    document.body.append(this.element);
    const frame = this.element.contentWindow;
    frame.postMessage = (data) => {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      this.onmessage?.(event);
    };
    // A worker's importScripts returns when the scripts have run; here it can only promise that, one after another.
    frame.importScripts = async (...urls) => {
      for (const each of urls) await this.run(each);
    };
    this.ready = this.run(url);
  }

  run(url) {
    return new Promise((resolve, reject) => {
      const inside = this.element.contentDocument;
      const script = inside.createElement("script");
      script.src = new URL(url, document.baseURI);
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${url} cannot be read`));
      inside.body.append(script);
    });
  }

  async postMessage(data) {
    await this.ready;
    const frame = this.element.contentWindow;
    frame.dispatchEvent(new frame.MessageEvent("message", { data: structuredClone(data) }));
  }

  terminate() {
    this.element.remove();
  }
}

if (location.protocol === "file:") window.Worker = FrameWorker;
