% The mean of each column over the entries that are not NaN.
function out = nanmean(x)
  there = ~isnan(x);
  x(~there) = 0;
  out = sum(x, 1) ./ sum(there, 1);
end
