"""A flight to look at again: one HTML file with the data inside, which opens without a network.

The data come from a file that `unisat-data records` or a page's "Download CSV" wrote.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

POINTS_MAX = 20_000
"""More are thinned out evenly: a browser draws them at once, and the file stays below some MB."""

_META = {
    *("id", "devID", "timestamp", "received_at", "time", "clock", "epoch", "seq", "boot_id"),
    *("uptime", "groups", "missing", "last_modified", "schema"),
}
_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.4 system-ui,sans-serif;max-width:70rem;margin:0 auto;padding:1rem}
canvas{width:100%;height:9rem;display:block}
#track{height:20rem}
button,select{font:inherit;padding:.4rem .9rem}
input{width:100%;height:2rem}
h2{font-size:1rem;margin:1rem 0 0}
output{font-variant-numeric:tabular-nums;float:right}
"""
_SCRIPT = """
const flight=JSON.parse(document.getElementById("flight").textContent);
const words={en:["Play","Pause","Track","times faster","Moment"],
ru:["Пуск","Пауза","Путь","раз быстрее","Момент"],
kk:["Бастау","Кідірту","Жолы","рет жылдам","Сәт"]};
const say=words[navigator.language.slice(0,2)]||words.en;
document.documentElement.lang=words[navigator.language.slice(0,2)]?navigator.language.slice(0,2):"en";
const t=flight.time,first=t[0],last=t[t.length-1];
const byId=(id)=>document.getElementById(id);
const add=(tag,parent,text)=>{const made=document.createElement(tag);
if(text)made.textContent=text;parent.append(made);return made};
document.title=flight.device;byId("title").textContent=flight.device;
const button=byId("play"),slider=byId("at"),speed=byId("speed");
for(const times of [1,10,60,600]){const one=add("option",speed,times+" "+say[3]);
one.value=times;one.selected=times===60}
slider.min=first;slider.max=last;slider.step="any";
slider.setAttribute("aria-label",say[4]);speed.setAttribute("aria-label",say[3]);
const charts=Object.entries(flight.fields).filter(([name])=>name!=="lat"&&name!=="long")
.map(([name,values])=>{const head=add("h2",byId("charts"),name+" ");
const output=add("output",head);const canvas=add("canvas",byId("charts"));
canvas.setAttribute("role","img");canvas.setAttribute("aria-label",name);
const seen=values.filter((value)=>value!==null);
return {values,output,canvas,low:Math.min(...seen),high:Math.max(...seen)}});
const lat=flight.fields.lat,long=flight.fields.long;
let track=null;
if(lat&&long){add("h2",byId("charts"),say[2]);track=add("canvas",byId("charts"));track.id="track";
track.setAttribute("role","img");track.setAttribute("aria-label",say[2])}
const pen=(canvas)=>{const scale=devicePixelRatio||1;const width=canvas.clientWidth,
height=canvas.clientHeight;canvas.width=width*scale;canvas.height=height*scale;
const context=canvas.getContext("2d");context.scale(scale,scale);
const style=getComputedStyle(document.body);context.strokeStyle=style.color;
context.fillStyle=style.color;context.lineWidth=2;return {context,width,height}};
function upTo(now){let low=0,high=t.length;
while(low<high){const middle=(low+high)>>1;if(t[middle]<=now)low=middle+1;else high=middle}
return low}
function draw(now){const count=upTo(now);
byId("now").textContent=new Date(now*1000).toLocaleString();
for(const {values,output,canvas,low,high} of charts){const {context,width,height}=pen(canvas);
context.beginPath();let drawing=false,before=0;
for(let i=0;i<count;i++){const value=values[i];
if(value===null||t[i]-before>flight.gap){drawing=false}
before=t[i];if(value===null)continue;
const x=(t[i]-first)/(last-first||1)*(width-4)+2;
const y=height-4-(value-low)/(high-low||1)*(height-8);
if(drawing)context.lineTo(x,y);else context.moveTo(x,y);drawing=true}
context.stroke();
let shown=count-1;while(shown>=0&&values[shown]===null)shown--;
output.textContent=shown<0?"":values[shown]}
if(track){const {context,width,height}=pen(track);
const points=[];for(let i=0;i<t.length;i++)if(lat[i]!==null&&long[i]!==null)
points.push([t[i],long[i],lat[i]]);
if(!points.length)return;
let west=1e9,east=-1e9,south=1e9,north=-1e9;
for(const [,x,y] of points){west=Math.min(west,x);east=Math.max(east,x);
south=Math.min(south,y);north=Math.max(north,y)}
const narrow=Math.cos((south+north)/2*Math.PI/180);
const size=Math.max((east-west)*narrow,north-south,1e-4);
const scale=(Math.min(width,height)-20)/size;
context.beginPath();let here=null;
for(const [when,x,y] of points){if(when>now)break;
here=[width/2+(x-(west+east)/2)*narrow*scale,height/2-(y-(south+north)/2)*scale];
context.lineTo(...here)}
context.stroke();
if(here){context.beginPath();context.arc(...here,6,0,7);context.fill()}}}
let at=last,playing=false,before=0;
function show(){slider.value=at;draw(at);button.textContent=playing?say[1]:say[0]}
function tick(when){if(!playing)return;
at=Math.min(last,at+(when-before)/1000*Number(speed.value));before=when;
if(at>=last)playing=false;show();if(playing)requestAnimationFrame(tick)}
button.addEventListener("click",()=>{playing=!playing;if(playing&&at>=last)at=first;
before=performance.now();show();if(playing)requestAnimationFrame(tick)});
slider.addEventListener("input",()=>{playing=false;at=Number(slider.value);show()});
addEventListener("resize",show);
show();
"""
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src '{script_hash}'; style-src '{style_hash}'">
<title>UniSat</title><style>{style}</style></head>
<body><main><h1 id="title"></h1>
<p><button id="play" type="button"></button> <select id="speed"></select>
<output id="now"></output></p>
<p><input id="at" type="range"></p>
<div id="charts"></div></main>
<script type="application/json" id="flight">{flight}</script>
<script>{script}</script></body></html>
"""


class ReplayError(Exception):
    """The file holds no flight; the text says what to do."""


def replay(source: Path, target: Path) -> int:
    """Writes the page of a file's records; returns how many moments it holds.

    Raises:
        ReplayError: The file is no such file.
        OSError: It can't be read, or the page not written.
    """
    device, rows = source.stem, []
    for record in _records(source):
        moment = _time(record)
        if moment is not None:
            device = str(record.get("devID") or device)
            rows.append((moment, record))
    if not rows:
        raise ReplayError(
            f"{source} holds no records with a time: name a file that `unisat-data records` wrote"
        )
    rows.sort(key=lambda row: row[0])
    rows = rows[:: math.ceil(len(rows) / POINTS_MAX)]
    names = sorted({name for _, record in rows for name in record if name not in _META})
    columns = {name: [_number(record.get(name)) for _, record in rows] for name in names}
    times = [moment for moment, _ in rows]
    steps = sorted(after - before for before, after in pairwise(times))
    flight = {
        "device": device,
        "time": times,
        "gap": max(6.0, 4 * steps[len(steps) // 2]) if steps else 6.0,
        "fields": {name: column for name, column in columns.items() if any(_there(column))},
    }
    page = _PAGE.format(
        script=_SCRIPT,
        script_hash=_hash(_SCRIPT),
        style=_STYLE,
        style_hash=_hash(_STYLE),
        # Nothing in the data can end the element that holds it.
        flight=json.dumps(flight, separators=(",", ":")).replace("<", "\\u003c"),
    )
    target.write_text(page, encoding="utf-8")
    return len(rows)


def _records(source: Path) -> Iterator[dict[str, Any]]:
    with source.open(encoding="utf-8", newline="") as text:
        if source.suffix == ".csv":
            yield from csv.DictReader(line for line in text if not line.startswith("#"))
            return
        try:
            for line in text:
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record
        except ValueError:
            raise ReplayError(f"{source} is neither CSV (name.csv) nor one JSON a line") from None


def _time(record: dict[str, Any]) -> float | None:
    """Seconds UTC, to the millisecond where the record has them."""
    written = record.get("received_at") or record.get("time")
    if isinstance(written, str):
        try:
            moment = datetime.fromisoformat(written)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except ValueError:
            pass
    return _number(record.get("timestamp"))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _there(column: list[float | None]) -> Iterator[bool]:
    return (value is not None for value in column)


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"sha256-{digest}"
