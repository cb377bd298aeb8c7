"""An index over the pictures of SHARDS, and search in it by text in any language or by a picture.

building   `mmtrain index`: embedding, the folder, the table
joining    the parts of an embedding as the files of an index
recall     what an index loses against exact search
kinds      flat, ivf, hnsw and pq as FAISS makes them
items      ids, captions and thumbnails, read by number
index      an index folder, opened
queries    `mmtrain search`: a text or a picture as a row, and what was found
page       the results as one HTML file
"""
