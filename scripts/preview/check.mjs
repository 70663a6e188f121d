// Checks the dashboards against the types of @grafana/schema: the whole as a
// Dashboard, and the options and fields of each panel by its kind.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const here = fileURLToPath(new URL('.', import.meta.url));
const raw = '@grafana/schema/dist/esm/raw';
let code = `
import type { Dashboard, Panel, FieldConfig } from '${raw}/dashboard/x/dashboard_types.gen.d.ts';
import type { Options as StatOptions } from '${raw}/composable/stat/panelcfg/x/StatPanelCfg_types.gen.d.ts';
import type { Options as TimeSeriesOptions, FieldConfig as TimeSeriesField } from '${raw}/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen.d.ts';
import type { Options as TableOptions, FieldConfig as TableField } from '${raw}/composable/table/panelcfg/x/TablePanelCfg_types.gen.d.ts';

// Enums are written as their words in JSON.
type Words<T> = T extends string ? \`\${T}\` : T extends number | boolean | null | undefined ? T
  : T extends (infer E)[] ? Words<E>[] : T extends object ? { [K in keyof T]: Words<T[K]> } : T;
`;
const options = { stat: 'StatOptions', timeseries: 'TimeSeriesOptions', table: 'TableOptions' };
const custom = { timeseries: 'TimeSeriesField', table: 'TableField' };
for (const name of ['webhookd', 'postgres']) {
  const board = JSON.parse(readFileSync(`${here}/../../deploy/grafana/${name}.json`, 'utf8'));
  for (const a of board.annotations.list) { // fields of Prometheus's plugin, of which the schema says nothing
    for (const field of ['expr', 'step', 'titleFormat', 'textFormat']) delete a[field];
  }
  code += `\nexport const ${name} = ${JSON.stringify(board, null, 1)} satisfies Words<Dashboard>;\n`;
  for (const p of board.panels.filter((p) => p.type !== 'row')) {
    const at = `${name}_${p.id}`;
    code += `export const ${at}_options = ${JSON.stringify(p.options)} satisfies Words<${options[p.type]}>;\n`;
    code += `export const ${at}_field = ${JSON.stringify({ ...p.fieldConfig.defaults, custom: undefined })} satisfies Words<FieldConfig>;\n`;
    if (custom[p.type]) {
      code += `export const ${at}_custom = ${JSON.stringify(p.fieldConfig.defaults.custom)} satisfies Words<${custom[p.type]}>;\n`;
    }
  }
}
mkdirSync(`${here}/out`, { recursive: true });
writeFileSync(`${here}/out/check.ts`, code);
writeFileSync(`${here}/out/tsconfig.json`, JSON.stringify({
  compilerOptions: { strict: true, noEmit: true, skipLibCheck: true, module: 'esnext', moduleResolution: 'bundler', target: 'es2022', types: [] },
  files: ['check.ts'],
}));
try {
  execFileSync('node', [`${here}/node_modules/typescript/bin/tsc`, '-p', `${here}/out`], { stdio: 'inherit' });
} catch {
  process.exit(1);
}
console.log('the dashboards are of the types of @grafana/schema');
