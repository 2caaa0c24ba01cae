/* The two scripts that ComfyUI serves for extensions. */

declare module "*/scripts/app.js" {
  export const app: {
    rootGraph: import("./comfy").Graph;
    canvas: {
      canvas: HTMLCanvasElement;
      default_connection_color_byType?: Record<string, string>;
      setDirty?(front: boolean, back: boolean): void;
    };
    extensionManager: {
      setting: { get(id: string): unknown };
      toast: { add(toast: { severity: string; summary: string; detail: string; life: number }): void };
    };
    queuePrompt(number: number): Promise<unknown>;
    registerExtension(extension: import("./comfy").Extension): void;
  };
}

declare module "*/scripts/api.js" {
  export const api: {
    addEventListener(type: string, listener: (event: CustomEvent) => void): void;
    apiURL(route: string): string;
    fetchApi(route: string, options?: RequestInit): Promise<Response>;
  };
}

declare const LiteGraph: { createNode(type: string): import("./comfy").GraphNode | null };
