// @ts-check
/** What the server knows of the latest run of a node, and which messages are about a node of the open workflow. */

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { executionIds, findNode } from "./node_lookup.js";

/** @typedef {import("./comfy").GraphNode} GraphNode */
/** @typedef {{node: string, workflow?: string}} Address a node by its execution id; no workflow: a prompt without one */

/** @param {Address} address @returns {GraphNode | undefined} undefined when it is of another workflow */
export function openNode({ node, workflow }) {
  if (workflow && workflow !== app.rootGraph.id) return undefined;
  return findNode(app.rootGraph, node);
}

/** The part of an address behind the question mark that names a node of the open workflow. @param {string} executionId */
export function queryOf(executionId) {
  return new URLSearchParams({ node: executionId, workflow: app.rootGraph.id ?? "" });
}

/**
 * Of the runs of a node the newest: inside a subgraph that is used several times it has several.
 *
 * @template {{sitting: number}} Told
 * @param {GraphNode} node
 * @param {string} route
 * @param {(told: Told) => boolean} [fits] those that do not are passed over
 * @returns {Promise<{id: string, told: Told} | undefined>} by its execution id; undefined when there is none
 */
export async function latestRun(node, route, fits = () => true) {
  /** @param {string} id */
  const ask = async (id) => {
    const answer = await api.fetchApi(`${route}?${queryOf(id)}`);
    return { id, told: answer.status === 200 ? /** @type {Told} */ (await answer.json()) : undefined };
  };
  let latest;
  for (const { id, told } of await Promise.all(executionIds(app.rootGraph, node).map(ask))) {
    if (told && fits(told) && !(latest && latest.told.sitting > told.sitting)) latest = { id, told };
  }
  return latest;
}

/**
 * A function that runs `ask`, one at a time: who calls it meanwhile has it run once more afterwards.
 *
 * @param {() => Promise<void>} ask
 * @param {string} failed what could not be done, for the console
 */
export function inTurn(ask, failed) {
  let asking = false;
  let again = false;
  return async function refresh() {
    again = asking;
    if (asking) return;
    asking = true;
    do {
      again = false;
      try {
        await ask();
      } catch (error) {
        // The next message asks again, and so does a connection that is back.
        console.warn(`FluxDuel: ${failed}`, error);
      }
    } while (again);
    asking = false;
  };
}
