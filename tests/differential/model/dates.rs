//! HTTP dates (RFC 9110 §5.6.7), read letter by letter.

use super::{Nanos, SECOND};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

const LONG_DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// "A recipient that parses a timestamp value in an HTTP field MUST accept all three HTTP-date formats" (RFC 9110
/// §5.6.7); "a cache recipient SHOULD match the field value case-insensitively" (RFC 9111 §4.2).
///
/// Weir: any day of the week, "which says nothing that the date does not"; what lies before 1970 is no date.
pub fn parse(text: &str) -> Option<Nanos> {
    let text = text.to_ascii_lowercase();
    let words: Vec<&str> = text.split(' ').collect();
    let seconds = if words.len() == 6 && words[0].ends_with(',') && words[5] == "gmt" {
        imf_fixdate(&words)
    } else if words.len() == 4 && words[0].ends_with(',') && words[3] == "gmt" {
        rfc850(&words)
    } else {
        asctime(&words)
    };
    seconds.map(|s| s * SECOND)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf_fixdate(words: &[&str]) -> Option<i128> {
    if !DAYS.contains(&&words[0][..words[0].len() - 1]) {
        return None;
    }
    moment(digits(words[3], 4)?, month(words[2])?, digits(words[1], 2)?, words[4])
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
///
/// "Recipients of a timestamp value in rfc850-date format, which uses a two-digit year, MUST interpret a timestamp that
/// appears to be more than 50 years in the future as representing the most recent year in the past that had the same
/// last two digits." Weir, which has no clock there: 70 to 99 lie in the last century.
fn rfc850(words: &[&str]) -> Option<i128> {
    if !LONG_DAYS.contains(&&words[0][..words[0].len() - 1]) {
        return None;
    }
    let date: Vec<&str> = words[1].split('-').collect();
    if date.len() != 3 {
        return None;
    }
    let year = digits(date[2], 2)?;
    let century = if year < 70 { 2000 } else { 1900 };
    moment(century + year, month(date[1])?, digits(date[0], 2)?, words[2])
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(words: &[&str]) -> Option<i128> {
    // A day of one digit is preceded by another space: an empty word.
    let (day, rest) = if words.len() == 6 && words[2].is_empty() {
        (digits(words[3], 1)?, &words[4..])
    } else if words.len() == 5 {
        (digits(words[2], 2)?, &words[3..])
    } else {
        return None;
    };
    if !DAYS.contains(&words[0]) {
        return None;
    }
    moment(digits(rest[1], 4)?, month(words[1])?, day, rest[0])
}

fn digits(text: &str, length: usize) -> Option<i128> {
    if text.len() != length || !text.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// 1 to 12.
fn month(text: &str) -> Option<i128> {
    for (index, name) in MONTHS.iter().enumerate() {
        if *name == text {
            return Some(index as i128 + 1);
        }
    }
    None
}

fn is_leap(year: i128) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i128, month: i128) -> i128 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn moment(year: i128, month: i128, day: i128, time: &str) -> Option<i128> {
    let time: Vec<&str> = time.split(':').collect();
    if time.len() != 3 {
        return None;
    }
    let (hour, minute, second) = (digits(time[0], 2)?, digits(time[1], 2)?, digits(time[2], 2)?);
    if year < 1970 || day < 1 || day > days_in(year, month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut days = 0;
    for past in 1970..year {
        days += if is_leap(past) { 366 } else { 365 };
    }
    for past in 1..month {
        days += days_in(year, past);
    }
    Some(((days + day - 1) * 24 + hour) * 3600 + minute * 60 + second)
}

/// A moment as an IMF-fixdate, whole seconds.
pub fn format(at: Nanos) -> String {
    let seconds = at.div_euclid(SECOND);
    let mut days = seconds.div_euclid(86_400);
    let weekday = DAYS[(days + 3).rem_euclid(7) as usize];
    let mut year = 1970;
    while days >= if is_leap(year) { 366 } else { 365 } {
        days -= if is_leap(year) { 366 } else { 365 };
        year += 1;
    }
    let mut month = 1;
    while days >= days_in(year, month) {
        days -= days_in(year, month);
        month += 1;
    }
    let rest = seconds.rem_euclid(86_400);
    let (name, month) = (capital(weekday), capital(MONTHS[month as usize - 1]));
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{name}, {:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT", days + 1)
}

fn capital(word: &str) -> String {
    word[..1].to_ascii_uppercase() + &word[1..]
}
