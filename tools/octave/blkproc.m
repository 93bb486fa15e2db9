% MATLAB's blkproc(x, [m n], [0 0], f): f of each block, a number or a column; zeros fill x to whole blocks.
function out = blkproc(x, block, ~, f)
  rows = ceil(size(x, 1) / block(1));
  columns = ceil(size(x, 2) / block(2));
  padded = zeros(rows * block(1), columns * block(2));
  padded(1:size(x, 1), 1:size(x, 2)) = x;
  for i = 1:rows
    for j = 1:columns
      part = padded((i - 1) * block(1) + (1:block(1)), (j - 1) * block(2) + (1:block(2)));
      value = f(part);
      out((i - 1) * numel(value) + (1:numel(value)), j) = value;
    end
  end
end
