import type { Refused, Status, TelemetryRecord, Update } from "../data/agent";
import { fill } from "../text";
import { dateTime } from "../time";
import { useWords } from "./context";

interface Props {
  status: Status;
  refused: Refused | null;
  newest: TelemetryRecord | undefined;
  disk: { free: number; total: number } | null;
  /** How many records the page looked at, and how many numbers are missing among them. */
  counted: number;
  lost: number;
}

export function Details({ status, refused, newest, disk, counted, lost }: Props) {
  const { texts, language, zone } = useWords();
  const number = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
  const trust = {
    synced: texts.synced,
    corrected: texts.corrected,
    unsynced: texts.unsynced,
  }[newest?.clock ?? ""];
  const full = status.retention.full_in_days;
  const phase = ({ phase, version, target }: Update): string => {
    const places = { version: version || "–", target };
    const words: Partial<Record<string, string>> = {
      good: texts.updateGood,
      ready: texts.updateReady,
      switching: texts.updateSwitching,
      returning: texts.updateReturning,
      forgetting: texts.updateForgetting,
    };
    return fill(words[phase] ?? phase, places);
  };
  return (
    <section aria-labelledby="details-title">
      <h2 id="details-title">{texts.details}</h2>
      {status.problems.length > 0 && (
        <>
          <h3>{texts.problems}</h3>
          <ul class="problems" lang="en">
            {status.problems.map((problem) => (
              <li key={problem}>{problem}</li>
            ))}
          </ul>
        </>
      )}
      <dl class="facts">
        <div>
          <dt>{texts.clock}</dt>
          <dd>{status.clock.synchronised ? texts.clockGood : texts.clockBad}</dd>
        </div>
        {trust !== undefined && (
          <div>
            <dt>{texts.clockTrust}</dt>
            <dd>{trust}</dd>
          </div>
        )}
        {disk !== null && (
          <div>
            <dt>{texts.disk}</dt>
            <dd>
              {number.format(disk.free / 1e9)} GB
              {full !== null && `, ${fill(texts.daysLeft, { n: number.format(Math.floor(full)) })}`}
            </dd>
          </div>
        )}
        <div>
          <dt>{texts.packages}</dt>
          <dd>
            {number.format(status.spool.last_seq)},{" "}
            {fill(texts.lost, { n: number.format(counted), lost: number.format(lost) })}
          </dd>
        </div>
        <div>
          <dt>{texts.version}</dt>
          <dd>{status.version}</dd>
        </div>
        {status.update !== null && (
          <div>
            <dt>{texts.update}</dt>
            <dd class={status.update.problem ? "warning" : ""}>
              {phase(status.update)}
              {status.update.said !== "" && (
                <>
                  {" "}
                  <span lang="en">{status.update.said}</span>
                </>
              )}
            </dd>
          </div>
        )}
      </dl>
      <details>
        <summary>
          {texts.badLines}: {number.format(status.spool.quarantined)}
        </summary>
        {refused === null || refused.lines.length === 0 ? (
          <p>{status.spool.quarantined > 0 ? texts.loading : texts.noBadLines}</p>
        ) : (
          <div class="scroll" tabIndex={0} role="region" aria-label={texts.badLines}>
            <table>
              <thead>
                <tr>
                  <th scope="col">{texts.time}</th>
                  <th scope="col">{texts.reason}</th>
                  <th scope="col">{texts.bytes}</th>
                </tr>
              </thead>
              <tbody>
                {refused.lines.map((line) => (
                  <tr key={line.number}>
                    <th scope="row">{dateTime(Date.parse(line.received_at) / 1000, zone)}</th>
                    <td lang="en">{line.reason}</td>
                    <td>
                      <code>{line.raw}</code>
                      {line.bytes > 200 && ` … (${number.format(line.bytes)})`}
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </details>
      {refused !== null && refused.dead.length > 0 && (
        <>
          <h3>{texts.deadLetters}</h3>
          <ul lang="en">
            {refused.dead.map((letter) => (
              <li key={`${letter.seq}${letter.sink}`}>
                {letter.devID} {letter.seq}, {letter.sink}: {letter.reason} {letter.detail}
              </li>
            ))}
          </ul>
        </>
      )}
    </section>
  );
}
