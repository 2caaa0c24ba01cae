/* The few parts of ComfyUI's frontend, and of our own messages, that the chart touches. For type checking only
   (tsc -p web/jsconfig.json): the npm package with the frontend's types has been empty since 1.48. */

export type NodeId = string | number;

export interface Graph {
  id?: string;
  nodes: GraphNode[];
  getNodeById(id: NodeId): GraphNode | null | undefined;
  add?(node: GraphNode): void;
}

export interface DomWidget {
  serialize?: boolean;
}

export interface Widget {
  name: string;
  value: unknown;
  options?: { advanced?: boolean; hidden?: boolean; values?: unknown; precision?: number; maxFractionDigits?: number };
  callback?: (...values: unknown[]) => void;
  advanced?: boolean;
  hidden?: boolean;
  computeSize?: () => [number, number];
  value?: unknown;
  callback?: (value: unknown) => void;
}

export interface GraphNode {
  id: NodeId;
  comfyClass?: string;
  size: ArrayLike<number>;
  pos: ArrayLike<number>;
  graph?: Graph | null;
  inputs?: Array<{ name: string }>;
  getInputNode?(place: number): GraphNode | null | undefined;
  connect?(output: number, target: GraphNode, input: number): unknown;
  subgraph?: Graph;
  widgets?: Widget[];
  showAdvanced?: boolean;
  onRemoved?: () => void;
  onDragOver?: (event: DragEvent) => boolean;
  /** Whether it has taken what was dropped. */
  onDragDrop?: (event: DragEvent) => Promise<boolean>;
  onConfigure?: (data: object) => void;
  computeSize(): ArrayLike<number>;
  setSize(size: [number, number]): void;
  setDirtyCanvas(foreground: boolean, background: boolean): void;
  addDOMWidget(
    name: string,
    type: string,
    element: HTMLElement,
    options: { serialize: boolean; hideOnZoom: boolean; getMinHeight(): number; getMaxHeight?(): number },
  ): DomWidget;
}

export type Stage = "diffusion" | "adversarial";
export type RunState = "running" | "cancelling" | "finished" | "stopped" | "failed";

/** Step, text, and whether it is a warning. */
export type Note = [number, string, boolean];

export interface StepEvent {
  node: string;
  /** Its id; empty where the prompt came without one. */
  workflow: string;
  run: string;
  /** Grows with each run and each going back of one: other numbers are other curves. */
  sitting: number;
  stage: Stage;
  step: number;
  total: number;
  scalars: Record<string, number>;
  seconds_per_step: number;
  /** Those that have changed: images, peak_memory (bytes), best_step, best_score. */
  facts: Record<string, number>;
}

export interface StateEvent {
  node: string;
  workflow: string;
  run: string;
  sitting: number;
  stage: Stage;
  state: RunState;
  message: string;
  /** All that are known: those of a step, warmup (updates of the discriminator alone), early (the update with which it
   * was finished), reused (it was finished before). */
  facts: Record<string, number>;
  /** How many notes were sent before these. */
  notes_before: number;
  notes: Note[];
  /** How many steps the server has of this run: a page that has none of them fetches them. */
  records: number;
}

export interface History {
  run: string;
  sitting: number;
  stage: Stage;
  state: RunState;
  message: string;
  total: number;
  facts: Record<string, number>;
  records: Array<Record<string, number>>;
  notes: Note[];
}

export interface PreviewStep {
  step: number;
  /** Another one where the file was written anew. */
  version: string;
  /** At a run's end: the step whose state is delivered and shown, 0 for the start. */
  delivered: number | null;
}

/** The previews of a node's latest run: a row for each prompt, a step for each time that they were drawn. */
export interface Previews {
  run: string;
  sitting: number;
  rows: Array<{ prompt: string; how: string }>;
  steps: PreviewStep[];
}

/** What the chart's element tells of its run, as the detail of a "fluxduel:run" event, whenever that changes. */
export interface ShownRun {
  node: string;
  run: string;
  state: RunState | "";
}

export interface Extension {
  name: string;
  setup?(): void;
  nodeCreated?(node: GraphNode): void;
  addCustomNodeDefs?(definitions: Record<string, import("./saved_graph").NodeDef>): void;
  beforeConfigureGraph?(data: import("./saved_graph").SavedGraph): void;
  afterConfigureGraph?(): void;
}
