import open_clip
import torch
from probes import FOLDER, captions, parts, pictures, save

name = f"local-dir:{FOLDER}"
model, _, preprocess = open_clip.create_model_and_transforms(name)
model.eval()
tokenizer = open_clip.get_tokenizer(name)
with torch.inference_mode():
    image = [model.encode_image(torch.stack([preprocess(each) for each in part]), True) for part in parts(pictures)]
    text = [model.encode_text(tokenizer(part), True) for part in parts(captions)]
save(torch.cat(image).numpy(), torch.cat(text).numpy())
