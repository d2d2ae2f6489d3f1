/** Takes a picture of every state of the pages, in build/screenshots/: `make screenshots`. */

import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { launch, openPage, Rig } from "./station";

const FOLDER = fileURLToPath(new URL("../../build/screenshots/", import.meta.url));
const WAIT = { timeout: 60_000 };
const STATES = [
  ["light", "?theme=light", 1280, 900],
  ["dark-russian", "?theme=dark&lang=ru", 1280, 900],
  ["telephone-kazakh", "?theme=light&lang=kk", 390, 844],
  ["projector", "?theme=dark", 1920, 1080],
] as const;
const NETWORK = [
  ["network", "?theme=light", 1280, 900],
  ["network-station", "?theme=light&device=almaty1", 1280, 900],
  ["network-side-by-side", "?theme=light&device=almaty1,almaty2", 1280, 900],
  ["network-silent", "?theme=dark&lang=ru&device=astana1", 1280, 900],
  ["network-wall", "?theme=dark&wall=1", 1920, 1080],
  ["network-telephone", "?theme=light&lang=kk", 390, 844],
] as const;
/** The spool of both of the hub's own devices. */
const ALMATY = "0c9d5b9e-1111-4222-8333-444455556666";
const CITIES = [
  ["almaty1", 43.24, 76.95],
  ["almaty2", 43.24, 76.95],
  ["oskemen1", 49.95, 82.61],
  ["bishkek1", 42.87, 74.59],
  ["tashkent1", 41.3, 69.24],
  ["ankara1", 39.93, 32.86],
  ["nairobi1", -1.29, 36.82],
  ["lima1", -12.05, -77.04],
] as const;

mkdirSync(FOLDER, { recursive: true });
const browser = await launch();
await networkPage();
const rig = await Rig.start();
const [page] = await openPage(browser, rig.url + "/?theme=light", {
  viewport: { width: 1280, height: 900 },
});
const picture = async (name: string): Promise<void> => {
  await page.screenshot({ path: `${FOLDER}${name}.png`, fullPage: true });
  console.log(`build/screenshots/${name}.png`);
};

await page.waitForSelector("[data-field=temperature] canvas", WAIT);
await rig.tell("history sim01 16");
const update = { phase: "good", version: "1.2", target: "", said: "", problem: false };
await rig.tell(`update ${JSON.stringify(update)}`);
// Enough for a line and a track to be seen.
await page.waitForTimeout(60_000);
for (const [name, search, width, height] of STATES) {
  await page.setViewportSize({ width, height });
  await page.goto(`${rig.url}/${search}`);
  await page.waitForSelector("[data-field=temperature] canvas", WAIT);
  await page.waitForSelector(".chain .ok", WAIT);
  for (const summary of await page.$$("summary")) await summary.click();
  await page.waitForTimeout(1000);
  await picture(name);
}
await page.setViewportSize({ width: 1280, height: 900 });
await page.goto(`${rig.url}/?theme=light&range=24h&device=sim01`);
await page.waitForSelector("[data-field=temperature] canvas", WAIT);
await page.waitForTimeout(3000);
await picture("day");
await rig.tell("stop-kinto");
await page.waitForSelector("text=The charts show", WAIT);
await page.waitForSelector("[data-stage=local].stopped", WAIT);
await picture("kinto-away");
await rig.tell("start-kinto");
const updating = { ...update, phase: "switching", target: "1.3" };
await rig.tell(`update ${JSON.stringify(updating)}`);
await page.goto(`${rig.url}/?theme=light`);
await page.waitForSelector("dd:has-text('1.3')", WAIT);
await page.waitForSelector("[data-stage=local].ok", WAIT);
await picture("updating");
await rig.tell("cut");
await page.waitForSelector("[data-stage=hub].stopped", WAIT);
await page.waitForTimeout(12_000);
await picture("hub-away");
await rig.tell("open");
await rig.tell("unplug");
await page.waitForSelector("[data-stage=port].stopped", WAIT);
await page.waitForTimeout(20_000);
await picture("cable-pulled");
await rig.tell("kill-agent");
await page.waitForSelector(".alarm", WAIT);
await picture("station-away");
const [plain] = await openPage(browser, rig.url + "/", { javaScriptEnabled: false });
await rig.tell("start-agent");
await plain.goto(`${rig.url}/table`);
await plain.screenshot({ path: `${FOLDER}plain-table.png`, fullPage: true });
await browser.close();
await rig.stop();

/** The network's page, with stations in all states. */
async function networkPage(): Promise<void> {
  const hub = await Rig.start("hub.py", ["coarse"]);
  for (const [device, seconds] of [
    ["astana1", 7200],
    ["aktau1", 40],
    ["semey1", 90_000],
  ] as const)
    await hub.tell(`silence ${device} ${seconds}`);
  const problems = ["port usb-UniSat is gone: plug it in"];
  await hub.tell(`report astana ${JSON.stringify({ epoch: "astana1", problems })}`);
  let round = 0;
  const send = async (): Promise<void> => {
    round += 1;
    for (const [at, [device, lat, long]] of CITIES.entries()) {
      const seq = at < 2 ? 398 + 2 * round + at : round;
      const epoch = at < 2 ? ALMATY : `${device}-spool`;
      await hub.tell(`send ${device} ${seq} ${JSON.stringify({ lat, long, epoch })}`);
      const report = { epoch, last_seq: seq, pending: { hub: at === 4 ? 14 : 0 }, health: "ok" };
      await hub.tell(`report ${at < 2 ? "almaty" : device} ${JSON.stringify(report)}`);
    }
  };
  for (const [name, search, width, height] of NETWORK) {
    const [page] = await openPage(browser, `${hub.url}/${search}`, { viewport: { width, height } });
    await page.fill("[autocomplete=username]", "reader");
    await page.fill("[type=password]", hub.password);
    await page.keyboard.press("Enter");
    await page.waitForSelector(".world circle", WAIT);
    // A rate needs two looks at the hub.
    for (let i = 0; i < 10; i++) {
      await send();
      await page.waitForTimeout(2500);
    }
    await page.screenshot({ path: `${FOLDER}${name}.png`, fullPage: true });
    console.log(`build/screenshots/${name}.png`);
    await page.context().close();
  }
  await hub.stop();
}
