import torch
from probes import FOLDER, captions, parts, pictures, save, unit
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

model = AutoModel.from_pretrained(FOLDER).eval()
assert type(model).__module__.startswith("transformers.")
tokenizer, processor = AutoTokenizer.from_pretrained(FOLDER), AutoImageProcessor.from_pretrained(FOLDER)
image, text = [], []
with torch.inference_mode():
    for part in parts(pictures):
        image.append(model.get_image_features(**processor(images=part, return_tensors="pt")).pooler_output)
    for part in parts(captions):
        tokens = tokenizer(part, padding=True, truncation=True, return_tensors="pt")
        text.append(model.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output)
save(unit(torch.cat(image).numpy()), unit(torch.cat(text).numpy()))
