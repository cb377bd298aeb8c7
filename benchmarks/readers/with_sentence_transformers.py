from probes import FOLDER, captions, pictures, save
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(str(FOLDER), local_files_only=True)
save(model.encode([picture.convert("RGB") for picture in pictures]), model.encode(captions))
