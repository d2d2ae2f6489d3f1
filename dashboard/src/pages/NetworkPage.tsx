import { useEffect, useMemo, useState } from "preact/hooks";
import { Chosen } from "../components/Chosen";
import { WordsContext } from "../components/context";
import { Header } from "../components/Header";
import { Login } from "../components/Login";
import { ROWS, StationTable } from "../components/StationTable";
import { Wall } from "../components/Wall";
import { WorldMap } from "../components/WorldMap";
import type { Settings } from "../data/hub";
import { useNetwork, WATCHED_MAX } from "../data/network";
import { choose, makeStations, placesOf } from "../data/stations";
import { fill, TEXTS } from "../text";
import { clockTime, span as spanText } from "../time";
import { useNow } from "../now";
import { useView, type SetView, type View } from "../view";

/** Ends with the tab: on a school's computer the next one has to log in. */
const KEPT = "unisat-login";
const CLOCKS_DIFFER_S = 60;
/** The table is put in order again no more often than this. */
const ORDER_S = 5;

export function NetworkPage() {
  const [view, setView] = useView();
  const [settings, setSettings] = useState<Settings | null>(null);
  const [failed, setFailed] = useState(false);
  useEffect(() => {
    document.title = "UniSat";
    fetch("/network.json")
      .then(async (answer) => {
        if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
        setSettings((await answer.json()) as Settings);
      })
      .catch(() => {
        setFailed(true);
      });
  }, []);
  const texts = TEXTS[view.language];
  const zone = {
    name: Intl.DateTimeFormat().resolvedOptions().timeZone,
    language: view.language,
  };
  return (
    <WordsContext.Provider value={{ texts, language: view.language, zone }}>
      {settings === null ? (
        <main>
          <h1>UniSat</h1>
          <p role="status">{failed ? texts.hubAway : texts.asking}</p>
        </main>
      ) : (
        <Stations settings={settings} view={view} setView={setView} />
      )}
    </WordsContext.Provider>
  );
}

interface Props {
  settings: Settings;
  view: View;
  setView: SetView;
}

function Stations({ settings, view, setView }: Props) {
  const [login, setLogin] = useState(() => sessionStorage.getItem(KEPT) ?? "");
  const { network, feed } = useNetwork(settings, login);
  const now = useNow() + network.clockAhead;
  const texts = TEXTS[view.language];
  const zone = { name: Intl.DateTimeFormat().resolvedOptions().timeZone, language: view.language };
  const names = useMemo(() => (view.device === "" ? [] : view.device.split(",")), [view.device]);
  const order = Math.floor(now / ORDER_S) * ORDER_S;
  const stations = useMemo(() => makeStations(network, order), [network, order]);
  const found = useMemo(
    () => choose(stations, view.search, view.sort),
    [stations, view.search, view.sort],
  );
  const places = useMemo(() => placesOf(found), [found]);
  const chosen = stations
    .filter(({ id }) => names.includes(id))
    .map((station) => ({
      ...station,
      age: station.newest && Math.max(0, now - station.newest.timestamp),
    }));
  const page = found.slice(view.page * ROWS, (view.page + 1) * ROWS).map(({ id }) => id);
  const watched = [...names, ...page].slice(0, WATCHED_MAX).join();
  useEffect(() => {
    // Not at each letter of a search.
    const timer = setTimeout(() => feed?.watch(watched === "" ? [] : watched.split(",")), 400);
    return () => {
      clearTimeout(timer);
    };
  }, [feed, watched]);

  const silent = stations.filter(({ state }) => state !== "live").length;
  const allSilent = stations.length > 1 && silent === stations.length;
  const needsLogin = network.refused > 0;
  return (
    <>
      <Header name={texts.network} health={null} view={view} setView={setView}>
        <p class="counter" role="status">
          {network.answered > 0 &&
            fill(texts.counter, {
              n: stations.length,
              silent,
              live: stations.length - silent,
            })}{" "}
          <span class={network.live ? "mark live" : "mark"}>
            {network.live ? texts.streaming : texts.polling}
          </span>
        </p>
        <div class="tools">
          <button
            type="button"
            aria-pressed={view.wall}
            onClick={() => {
              setView({ wall: !view.wall });
            }}
          >
            {texts.wall}
          </button>
          {login !== "" && (
            <button
              type="button"
              onClick={() => {
                sessionStorage.removeItem(KEPT);
                setLogin("");
              }}
            >
              {texts.logout}
            </button>
          )}
        </div>
      </Header>
      <main id="main" tabIndex={-1} class={view.wall ? "wall" : ""}>
        {network.unreachable && (
          <p class="alarm" role="alert">
            {network.answered > 0
              ? fill(texts.hubUnreachable, { time: clockTime(network.answered, zone) })
              : texts.hubAway}
          </p>
        )}
        {Math.abs(network.clockAhead) > CLOCKS_DIFFER_S && (
          <p class="warning">
            {fill(texts.hubClockDiffers, { span: spanText(Math.abs(network.clockAhead), texts) })}
          </p>
        )}
        {needsLogin && (
          <Login
            wrong={login !== ""}
            onLogin={(authorization) => {
              sessionStorage.setItem(KEPT, authorization);
              setLogin(authorization);
            }}
          />
        )}
        {!needsLogin && network.answered === 0 && !network.unreachable && <p>{texts.asking}</p>}
        {allSilent && (
          <p class="alarm" role="alert">
            {texts.allSilent}
          </p>
        )}
        {view.wall && network.answered > 0 && (
          <Wall network={network} stations={stations} now={now} />
        )}
        {!view.wall && network.answered > 0 && (
          <>
            {chosen.length > 0 && feed !== null && (
              <Chosen
                hub={feed.hub}
                settings={settings}
                network={network}
                stations={chosen}
                now={now}
                view={view}
                setView={setView}
              />
            )}
            <section aria-labelledby="stations-title">
              <h2 id="stations-title">{texts.stations}</h2>
              <p class="tools">
                <label>
                  {texts.search}{" "}
                  <input
                    type="search"
                    value={view.search}
                    onInput={(event) => {
                      setView({ search: event.currentTarget.value, page: 0 });
                    }}
                  />
                </label>
                <span role="status">{fill(texts.found, { n: found.length })}</span>
              </p>
              <StationTable stations={found} chosen={names} view={view} setView={setView} />
            </section>
          </>
        )}
        {network.answered > 0 && settings.location !== "none" && (
          <WorldMap
            places={places}
            chosen={names}
            onChoose={(id) => {
              setView({ device: id, zoom: null, wall: false });
            }}
          />
        )}
      </main>
      <footer>{fill(texts.timeZone, { zone: zone.name })}</footer>
    </>
  );
}
