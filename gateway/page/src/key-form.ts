/** The form that asks for the key. The key stays in this tab: it is neither part of an address nor stored on disk. */

import { html, LitElement, nothing } from "lit";

const STORED = "reentry-key";

export function storedKey(): string | null {
  return sessionStorage.getItem(STORED);
}

export function storeKey(key: string): void {
  sessionStorage.setItem(STORED, key);
}

export function forgetKey(): void {
  sessionStorage.removeItem(STORED);
}

export class KeyForm extends LitElement {
  static override properties = { problem: {} };
  declare problem: string;

  constructor() {
    super();
    this.problem = "";
  }

  protected override createRenderRoot(): this {
    return this;
  }

  protected override firstUpdated(): void {
    this.querySelector("input")!.focus();
  }

  private submit(event: SubmitEvent): void {
    event.preventDefault();
    const key = this.querySelector("input")!.value.trim();
    if (!/^[\x21-\x7e]+$/.test(key)) {
      this.problem = key === "" ? "Enter a key." : "The key has characters that no key has. Copy it again.";
      this.querySelector("input")!.focus();
      return;
    }
    this.dispatchEvent(new CustomEvent("key", { detail: key, bubbles: true }));
  }

  protected override render() {
    return html`
      <form class="key-form" @submit=${this.submit} novalidate>
        <h2>Open the live tracks</h2>
        <p id="key-help">
          Enter a key with the scope <code>read</code>. It stays in this tab and is forgotten when the tab is closed.
        </p>
        <label for="key">Key</label>
        <input
          id="key" name="key" type="password" autocomplete="off" spellcheck="false" placeholder="rk_…" required
          aria-describedby=${this.problem ? "key-problem key-help" : "key-help"} aria-invalid=${this.problem ? "true" : "false"}
        />
        <p id="key-problem" class="problem" role="alert" ?hidden=${!this.problem}>${this.problem || nothing}</p>
        <button type="submit">Connect</button>
      </form>
    `;
  }
}

customElements.define("key-form", KeyForm);
