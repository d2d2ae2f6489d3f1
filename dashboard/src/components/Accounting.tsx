import { total, type Balance } from "../data/balance";
import { fill } from "../text";
import { useWords } from "./context";

/** Every package of a station, by its number: sent, stored, on the way, lost. */
export function Accounting({ device, parts }: { device: string; parts: Balance[] | null }) {
  const { texts, language } = useWords();
  const number = new Intl.NumberFormat(language);
  if (parts === null) return <p>{texts.asking}</p>;
  const sum = total(parts);
  const complete = sum.sent === sum.stored;
  return (
    <div class="accounting">
      <h3 id={`account-${device}`}>{fill(texts.accounting, { device })}</h3>
      <p class={complete ? "" : "warning"}>
        {complete
          ? fill(texts.allHere, { n: number.format(sum.sent) })
          : fill(texts.someMissing, {
              sent: number.format(sum.sent),
              stored: number.format(sum.stored),
              missing: number.format(sum.sent - sum.stored),
            })}
      </p>
      <div class="scroll" tabIndex={0} role="region" aria-labelledby={`account-${device}`}>
        <table>
          <thead>
            <tr>
              <th scope="col">{texts.numbers}</th>
              <th scope="col">{texts.sent}</th>
              <th scope="col">{texts.stored}</th>
              <th scope="col">{texts.onWay}</th>
              <th scope="col">{texts.lostPackages}</th>
              <th scope="col">{texts.open}</th>
            </tr>
          </thead>
          <tbody>
            {parts.map((part) => (
              <tr key={part.epoch}>
                <th scope="row">
                  {number.format(part.first)} – {number.format(part.last)}
                </th>
                {[part.sent, part.stored, part.onWay, part.lost, part.open].map((value, i) => (
                  <td key={i}>{number.format(value)}</td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </div>
  );
}
