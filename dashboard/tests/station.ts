/** The parts that the tests look at, and a browser to look with. */

import { type ChildProcess, spawn } from "node:child_process";
import { createInterface, type Interface } from "node:readline";
import { fileURLToPath } from "node:url";
import axe from "axe-core";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";

const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));

export class Rig {
  private constructor(
    private readonly process: ChildProcess,
    private readonly lines: AsyncIterator<string>,
    private readonly reader: Interface,
    readonly url: string,
    /** Of the hub's reader; "" where nobody has to log in. */
    readonly password: string,
    /** The ids of the station's programs by their names. */
    readonly processes: Record<string, number>,
  ) {}

  /** Runs one of the Python programs beside this file. */
  static async start(
    program = "serve.py",
    options: string[] = [],
    environment: Record<string, string> = {},
  ): Promise<Rig> {
    const command = ["-B", `dashboard/tests/${program}`, ...options];
    const child = spawn(`${REPOSITORY}.venv/dev/bin/python`, command, {
      cwd: REPOSITORY,
      env: { ...process.env, PYTHONPATH: `${REPOSITORY}agent`, ...environment },
      stdio: ["pipe", "pipe", "inherit"],
    });
    const reader = createInterface({ input: child.stdout });
    const lines = reader[Symbol.asyncIterator]();
    const first = (await lines.next()) as IteratorResult<string, undefined>;
    if (first.done === true) throw new Error("the rig ended before it began: see above");
    const { url, password, processes } = JSON.parse(first.value) as {
      url: string;
      password?: string;
      processes?: Record<string, number>;
    };
    return new Rig(child, lines, reader, url, password ?? "", processes ?? {});
  }

  async tell(command: string): Promise<void> {
    this.process.stdin?.write(`${command}\n`);
    const answer = (await this.lines.next()) as IteratorResult<string, undefined>;
    if (answer.value !== "done") throw new Error(`the rig did not: ${command}`);
  }

  async stop(): Promise<void> {
    if (this.process.exitCode === null) {
      const ended = new Promise((resolve) => this.process.once("exit", resolve));
      this.process.stdin?.end();
      await ended;
    }
    this.reader.close();
  }
}

export const launch = (): Promise<Browser> =>
  chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });

/** What a page must never do: say errors, or ask another host. */
export interface Watch {
  errors: string[];
  foreign: string[];
  requests: string[];
}

export async function openPage(
  browser: Browser,
  url: string,
  options: BrowserContextOptions = {},
): Promise<[Page, Watch]> {
  const context = await browser.newContext({ locale: "en-GB", ...options });
  const page = await context.newPage();
  const watch: Watch = { errors: [], foreign: [], requests: [] };
  page.on("console", (message) => {
    if (message.type() === "error") watch.errors.push(message.text());
  });
  page.on("pageerror", (error) => watch.errors.push(error.message));
  page.on("request", (request) => {
    watch.requests.push(request.url());
    const host = new URL(request.url());
    if (host.protocol !== "blob:" && host.origin !== new URL(url).origin)
      watch.foreign.push(request.url());
  });
  await page.goto(url);
  return [page, watch];
}

/** What axe finds wrong. */
export async function accessible(on: Page): Promise<string[]> {
  await on.evaluate(axe.source);
  return on.evaluate(async () => {
    const { violations } = await (window as unknown as { axe: typeof axe }).axe.run(document, {
      runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    });
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map((n) => n.html).join(" ")}`);
  });
}
