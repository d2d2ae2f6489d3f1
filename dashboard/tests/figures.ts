/** Measures what a page costs and how fast it is, and prints it: `dashboard/npm run figures`. */

import { readFileSync, readdirSync } from "node:fs";
import type { Browser, Page } from "playwright-core";
import { launch, openPage, Rig } from "./station";

const WAIT = { timeout: 60_000 };
const SAMPLES = 110;
const COST_S = 45;
const PACKAGE = "temperature=1\r\nhumidity=2\r\npressure=3\r\npm25=4\r\n\r\n";
/** Lighthouse's "slow 4G", and a processor four times slower than this one. */
const TELEPHONE = { latency: 150, throughput: (1.6e6 / 8) * 0.9, slower: 4 };
const DEVICE = "quick";

const browser = await launch();
const hub = await Rig.start("hub.py", ["coarse"]);
await hub.tell(`station browser sim01 sim02 ${DEVICE}`);
const rig = await Rig.start("serve.py", [], {
  UNISAT_HUB_URL: hub.url,
  UNISAT_HUB_PASSWORD: hub.password,
});
await firstPaint(browser, "station page", rig.url);
await firstPaint(browser, "network page", hub.url);
await cost();
await latency();
await browser.close();
await rig.stop();
await hub.stop();

/** The moment of the first content, and of the first value, on a telephone. */
async function firstPaint(on: Browser, name: string, url: string): Promise<void> {
  const paints: number[] = [];
  const values: number[] = [];
  for (let round = 0; round < 9; round++) {
    const [page] = await openPage(on, "about:blank", { viewport: { width: 390, height: 844 } });
    const cdp = await page.context().newCDPSession(page);
    await cdp.send("Network.emulateNetworkConditions", {
      offline: false,
      latency: TELEPHONE.latency,
      downloadThroughput: TELEPHONE.throughput,
      uploadThroughput: TELEPHONE.throughput,
    });
    await cdp.send("Emulation.setCPUThrottlingRate", { rate: TELEPHONE.slower });
    await page.goto(url);
    await page.waitForSelector("dl [data-field], form.login", WAIT);
    values.push(await page.evaluate(() => performance.now()));
    const paint = await page.evaluate(
      () => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN,
    );
    paints.push(paint);
    await page.context().close();
  }
  console.log(
    `${name}, first paint on a telephone: ${told(paints)}; first value or form: ${told(values)}`,
  );
}

/** What one open page asks of the station, and what that costs there. */
async function cost(): Promise<void> {
  const idle = await spent();
  const [page, watch] = await openPage(browser, `${rig.url}/?device=sim01`);
  await page.waitForSelector("[data-field=temperature] canvas", WAIT);
  await page.waitForTimeout(5000);
  const asked = watch.requests.length;
  const open = await spent();
  console.log(`requests a second: ${((watch.requests.length - asked) / COST_S).toFixed(2)}`);
  for (const [name, before] of idle) {
    const more = (open.get(name) ?? 0) - before;
    console.log(
      `${name}: ${percent(before)} of a core without a page, ${percent(more)} more with one`,
    );
  }
  await page.context().close();
}

/** Shares of a core that the station's programs take, over COST_S. */
async function spent(): Promise<Map<string, number>> {
  const before = ticks();
  await new Promise((resolve) => setTimeout(resolve, COST_S * 1000));
  const after = ticks();
  return new Map(
    [...after].map(([name, now]) => [name, (now - (before.get(name) ?? 0)) / 100 / COST_S]),
  );
}

/** Clock ticks (1/100 s) that each program and its children took. */
function ticks(): Map<string, number> {
  const found = new Map<string, number>();
  for (const [name, root] of Object.entries(rig.processes)) {
    let sum = 0;
    for (const pid of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
      const stat = fields(pid);
      if (Number(pid) === root || Number(stat[1]) === root)
        sum += Number(stat[11]) + Number(stat[12]);
    }
    found.set(name, sum);
  }
  return found;
}

/** The fields of /proc/PID/stat from the state on; none where it has just ended. */
function fields(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
  } catch {
    return [];
  }
}

/** From the last byte on the serial line to the value on both pages. */
async function latency(): Promise<void> {
  const [station] = await openPage(browser, rig.url);
  const [network] = await openPage(browser, `${hub.url}/?device=${DEVICE}`);
  await network.fill("[autocomplete=username]", "reader");
  await network.fill("[type=password]", hub.password);
  await network.keyboard.press("Enter");
  const send = (mark: number): Promise<void> =>
    rig.tell(`send ${JSON.stringify(`\r\ndevID=${DEVICE}\r\nmark=${mark}\r\n${PACKAGE}`)}`);
  await send(1);
  await send(2);
  await station.waitForSelector(`button:text-is("${DEVICE}")`, WAIT);
  await station.click(`button:text-is("${DEVICE}")`);
  await network.waitForSelector("dl [data-field=mark] dd", WAIT);
  await network.waitForSelector(".mark.live", WAIT);
  const took: [number[], number[]] = [[], []];
  for (let mark = 1001; mark <= 1000 + SAMPLES; mark++) {
    // Not in step with the page's own questions.
    await station.waitForTimeout(Math.random() * 1400);
    const begun = performance.now();
    await send(mark);
    const [a, b] = await Promise.all([seen(station, mark), seen(network, mark)]);
    took[0].push(a - begun);
    took[1].push(b - begun);
  }
  console.log(`device to screen, station page: ${told(took[0])}`);
  console.log(`device to screen, through the hub: ${told(took[1])}`);
}

async function seen(page: Page, mark: number): Promise<number> {
  const text = new Intl.NumberFormat("en").format(mark);
  await page.waitForSelector(`dl [data-field=mark] dd:has-text("${text}")`, WAIT);
  return performance.now();
}

function told(samples: number[]): string {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (share: number): string =>
    (sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? NaN).toFixed(0);
  return `p50 ${at(0.5)}, p99 ${at(0.99)} ms (${sorted.length} times)`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
