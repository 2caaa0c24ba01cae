/* The few parts of ComfyUI's frontend, and of our own messages, that the chart touches. For type checking only
   (tsc -p web/jsconfig.json): the npm package with the frontend's types has been empty since 1.48. */

export type NodeId = string | number;

export interface Graph {
  nodes: GraphNode[];
  getNodeById(id: NodeId): GraphNode | null | undefined;
}

export interface DomWidget {
  serialize?: boolean;
}

export interface GraphNode {
  id: NodeId;
  comfyClass?: string;
  size: ArrayLike<number>;
  subgraph?: Graph;
  onRemoved?: () => void;
  computeSize(): ArrayLike<number>;
  setSize(size: [number, number]): void;
  addDOMWidget(
    name: string,
    type: string,
    element: HTMLElement,
    options: { serialize: boolean; hideOnZoom: boolean; getMinHeight(): number },
  ): DomWidget;
}

export type Stage = "diffusion" | "adversarial";
export type RunState = "running" | "finished" | "stopped" | "failed";

export interface StepEvent {
  node: string;
  run: string;
  stage: Stage;
  step: number;
  total: number;
  scalars: Record<string, number>;
  seconds_per_step: number;
}

export interface StateEvent {
  node: string;
  run: string;
  stage: Stage;
  state: RunState;
  message: string;
  notes?: Array<[number, string]>;
  /** Number of records of earlier sittings, which the page has to fetch. */
  earlier?: number;
}

export interface History {
  run: string;
  stage: Stage;
  state: RunState;
  message: string;
  total: number;
  records: Array<Record<string, number>>;
  notes?: Array<[number, string]>;
}

export interface Extension {
  name: string;
  setup?(): void;
  nodeCreated?(node: GraphNode): void;
  afterConfigureGraph?(): void;
}
