/* Graphs as the editor saves them (format 0.4), and the host's descriptions of nodes. For type checking only. */

export type InputSpec = [kind: string | unknown[], options?: { default?: unknown; options?: unknown[]; forceInput?: boolean }];

export interface NodeDef {
  input: { required?: Record<string, InputSpec>; optional?: Record<string, InputSpec> };
}

export interface SavedSlot {
  name: string;
  type: string;
  link?: number | null;
  links?: number[] | null;
  widget?: { name: string };
}

export interface SavedNode {
  id: number | string;
  type: string;
  pos: ArrayLike<number> | Record<string, number>;
  size: ArrayLike<number> | Record<string, number>;
  flags?: object;
  order?: number;
  mode?: number;
  inputs?: SavedSlot[];
  outputs?: SavedSlot[];
  properties?: Record<string, unknown>;
  widgets_values?: unknown[] | Record<string, unknown>;
  widgets_values_named?: Record<string, unknown>;
}

export interface SavedLinkObject {
  id: number;
  origin_id: number | string;
  origin_slot: number;
  target_id: number | string;
  target_slot: number;
  type: string;
}

export type SavedLinkList = [number, number | string, number, number | string, number, string];

export interface SavedGraph {
  nodes: SavedNode[];
  links?: Array<SavedLinkList | SavedLinkObject>;
  last_node_id?: number;
  last_link_id?: number;
  state?: { lastNodeId?: number; lastLinkId?: number };
  definitions?: { subgraphs?: SavedGraph[] };
}
