declare module "virtual:world" {
  /** The path of an SVG: all land, in a plane 360 wide and 180 high, the north on top. */
  const path: string;
  export default path;
}
