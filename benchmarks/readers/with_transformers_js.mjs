// node with_transformers_js.mjs FOLDER PROBES [DTYPE], where @huggingface/transformers is installed
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import {
  AutoImageProcessor,
  AutoTokenizer,
  CLIPTextModelWithProjection,
  CLIPVisionModelWithProjection,
  RawImage,
  env,
} from "@huggingface/transformers";

const [folder, probes, dtype = "fp32"] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const name = basename(folder);

const tokenizer = await AutoTokenizer.from_pretrained(name);
const text = await CLIPTextModelWithProjection.from_pretrained(name, { dtype });
const captions = JSON.parse(readFileSync(join(probes, "captions.json"), "utf8"));
const rows = [];
for (let start = 0; start < captions.length; start += 32) {
  const tokens = tokenizer(captions.slice(start, start + 32), { padding: true, truncation: true });
  rows.push(...(await text(tokens)).text_embeds.tolist());
}
writeFileSync(join(probes, "text.rows"), JSON.stringify(rows));

const processor = await AutoImageProcessor.from_pretrained(name);
const vision = await CLIPVisionModelWithProjection.from_pretrained(name, { dtype });
const files = readdirSync(probes).filter((file) => file.endsWith(".png")).sort();
const pictures = [];
for (const file of files) {
  const inputs = await processor(await RawImage.read(join(probes, file)));
  pictures.push(...(await vision(inputs)).image_embeds.tolist());
}
writeFileSync(join(probes, "image.rows"), JSON.stringify(pictures));
