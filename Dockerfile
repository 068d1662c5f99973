# World Models in a container. Written by the book, but built by nobody here: say so if it fails.
#   docker build -t world-models . && docker run -v "$PWD/runs:/app/runs" world-models carracing --scale smoke
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends bash git && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY requirements.txt run.sh ./
RUN bash run.sh setup
COPY . .
ENTRYPOINT [".venv/bin/python", "controller/pipeline.py"]
CMD ["carracing", "--scale", "smoke"]
